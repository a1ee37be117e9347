"""The similarity of every text with every video at several levels, from what is computed once for each side."""

from collections.abc import Iterable, Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from hbi_jax.models.reconstruction import ReconstructionSide
from hbi_jax.models.similarity import WTISide, wti_of_sides, wti_side
from hbi_jax.types import Encoded

# What the similarity needs of the texts or of the videos, whatever the other side, by level.
Side = WTISide | ReconstructionSide
Sides = dict[str, Side]


class Scorer(nn.Module):
    """A model that scores encoded texts with encoded videos, by WTI unless a subclass scores differently."""

    def text_side(self, text: Encoded, level: str) -> Side:
        """Returns what the similarity at a level needs of each text."""
        return wti_side(text.levels[level])

    def video_side(self, video: Encoded, level: str) -> Side:
        """Returns what the similarity at a level needs of each video."""
        return wti_side(video.levels[level])

    def level_similarity(self, texts: Side, videos: Side, level: str, video_block: int = 16) -> Float[Array, "a b"]:
        """Returns the similarity of every text with every video at a level."""
        del level
        return wti_of_sides(texts, videos, video_block)

    def text_sides(self, text: Encoded, levels: Iterable[str]) -> Sides:
        """Returns what the similarity needs of each text at the named levels."""
        return {level: self.text_side(text, level) for level in levels}

    def video_sides(self, video: Encoded, levels: Iterable[str]) -> Sides:
        """Returns what the similarity needs of each video at the named levels."""
        return {level: self.video_side(video, level) for level in levels}

    def sides_similarity(
        self, texts: Sides, videos: Sides, level_rates: Mapping[str, float], video_block: int = 16
    ) -> Float[Array, "a b"]:
        """Returns the similarity of every text with every video: the sum over levels, weighted by the given rates.

        Levels with rate 0 are skipped. The interaction is not computed.
        """
        parts = [
            rate * self.level_similarity(texts[level], videos[level], level, video_block)
            for level, rate in level_rates.items()
            if rate
        ]
        return sum(parts[1:], parts[0])

    def gallery_similarity(
        self, text: Encoded, video: Encoded, level_rates: Mapping[str, float], video_block: int = 16
    ) -> Float[Array, "a b"]:
        """Returns `sides_similarity` of encoded texts and videos."""
        wanted = scored(level_rates)
        sides = self.text_sides(text, wanted), self.video_sides(video, wanted)
        return self.sides_similarity(*sides, level_rates, video_block)


def scored(level_rates: Mapping[str, float]) -> tuple[str, ...]:
    """Returns the names of the levels that score: those whose rate is not 0."""
    return tuple(level for level, rate in level_rates.items() if rate)
