"""CLIP as a zero-shot video retriever: the cosine of the sentence vector and the mean of the frame vectors."""

from collections import OrderedDict

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from hbi_jax.models.clip import TextTower, VisionTower
from hbi_jax.models.config import CLIPConfig
from hbi_jax.models.scorer import Scorer
from hbi_jax.models.similarity import normalize, pair_similarity
from hbi_jax.types import Encoded, Match, WeightedTokens

# The frames, for pictures, and their mean, which is what scores.
FRAMES, MEAN = "frames", "mean"


class MeanPooledCLIP(Scorer):
    """A CLIP with the interface of `HBI` that retrieval uses; its parameters are those of `CLIP`.

    A video is the mean of its normalised frame vectors (CLIP4Clip's meanP). The level `frames` has the sentence as its
    only word and every frame; the level `mean` has one token per side, so that its similarity is the cosine.
    """

    config: CLIPConfig

    def setup(self):  # noqa: D102
        self.text_tower = TextTower(self.config)
        self.vision_tower = VisionTower(self.config)

    def encode_text(self, token_ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        """Returns the sentence vector of each text, as a token of both levels."""
        _, sentence = self.text_tower(token_ids, mask)
        token = _weighted(sentence[:, None], jnp.ones((len(sentence), 1), bool))
        return Encoded(OrderedDict({FRAMES: token, MEAN: token}), sentence)

    def encode_video(
        self, frames: UInt8[Array, "b f h w 3"] | Float[Array, "b f h w 3"], mask: Bool[Array, "b f"]
    ) -> Encoded:
        """Returns the vectors of each video's frames, and their mean."""
        b, f = mask.shape
        features = normalize(self.vision_tower(frames.reshape(b * f, *frames.shape[2:])).reshape(b, f, -1))
        real = mask[..., None].astype(features.dtype)
        mean = (features * real).sum(1) / jnp.maximum(real.sum(1), 1)
        whole = _weighted(mean[:, None], mask.any(axis=1, keepdims=True))
        return Encoded(OrderedDict({FRAMES: _weighted(features, mask), MEAN: whole}), mean)

    def match(self, text: Encoded, video: Encoded, level: str) -> Match:
        """Returns the game of matched texts and videos at a level: row `i` of both belongs together."""
        words, frames = text.levels[level], video.levels[level]
        cosine = pair_similarity(words, frames)
        return Match(cosine, cosine, words, frames)


def _weighted(features: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> WeightedTokens:
    return WeightedTokens(features, mask, jnp.zeros(mask.shape, jnp.float32))
