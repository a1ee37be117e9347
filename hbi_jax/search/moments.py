"""Moments: the results of a search, and the frames inside them that carry the match."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

# The row of a text's end token, which stands for the sentence in a CLIP.
WHOLE_TEXT = "(whole text)"
# Frames next to the best one belong to the match if they have at least this share of its interaction.
_SHARE = 0.5


class Moment(NamedTuple):
    """A clip that matches a query.

    Attributes:
      video: The file.
      start, end: The clip, in seconds.
      score: The similarity of query and clip: the sum over the levels, weighted by their rates.
      words: The words of the query, and a last row for the whole text if its end token is a player; for a query by
        example the times of its frames.
      frames: The times of the clip's frames, in seconds. Empty if the finest level of the model has no frames.
      interaction: What each word and frame are worth together beyond what they are worth apart, in the units of the
        similarity.
    """

    video: str
    start: float
    end: float
    score: float
    words: tuple[str, ...]
    frames: tuple[float, ...]
    interaction: Float[np.ndarray, "w f"]

    @property
    def relevance(self) -> Float[np.ndarray, " f"]:
        """The interaction of each frame with all words together."""
        return self.interaction.sum(axis=0)

    @property
    def best_frame(self) -> int | None:
        """The number of the frame that carries most of the match; None if no frame is known or stands out."""
        relevance = self.relevance
        return int(relevance.argmax()) if len(relevance) and relevance.max() > 0 else None

    @property
    def focus(self) -> tuple[float, float]:
        """The part of the clip that carries the match, in seconds; the whole clip if no frame stands out."""
        best = self.best_frame
        if best is None:
            return self.start, self.end
        strong = self.relevance >= _SHARE * self.relevance[best]
        first = last = best
        while first > 0 and strong[first - 1]:
            first -= 1
        while last + 1 < len(strong) and strong[last + 1]:
            last += 1
        return self.frames[first], self.frames[last + 1] if last + 1 < len(strong) else self.end

    def to_json(self) -> dict[str, Any]:
        """Returns the moment as plain values."""
        return {
            **self._asdict(),
            "focus": list(self.focus),
            "interaction": [[round(float(value), 6) for value in row] for row in self.interaction],
        }


class TextMatch(NamedTuple):
    """A text that matches a video.

    Attributes:
      text: The text.
      score: The similarity of text and video.
    """

    text: str
    score: float


def labelled(tokens: Sequence[str], times: Sequence[float], values: Float[np.ndarray, "t f"]) -> tuple:
    """Returns words, frames and interaction of a text with a clip, with a name for every row and column.

    The start token refers to nothing and is left out. The end token is shown if it is a player
    (`config.model.end_tokens`). A model that merges or pools its tokens has none to show.

    Args:
      tokens: The words of the text, without start and end.
      times: The times of the clip's real frames.
      values: The interaction of every token of the text with every token of the clip.
    """
    if values.shape[1] != len(times):
        return (), (), np.zeros((0, 0), np.float32)
    if len(values) == len(tokens) + 2:
        return (*tokens, WHOLE_TEXT), tuple(times), values[1:]
    if len(tokens) and len(values) - len(tokens) in (0, 1):
        return tuple(tokens), tuple(times), values[-len(tokens) :]
    if len(values) == 1:
        return (WHOLE_TEXT,), tuple(times), values
    return (), (), np.zeros((0, 0), np.float32)


def without_overlaps(moments: Sequence[tuple[str, float, float]], count: int) -> list[int]:
    """Returns the first moments that do not overlap a better one of the same video.

    Args:
      moments: Video, start and end, the best first.
      count: How many to return at most.
    """
    chosen: list[int] = []
    for number, (video, start, end) in enumerate(moments):
        if len(chosen) == count:
            break
        others = (moments[other] for other in chosen)
        # Neighbouring clips may touch, and rounding makes that an overlap.
        if all(video != name or end <= begin + 1e-3 or start >= stop - 1e-3 for name, begin, stop in others):
            chosen.append(number)
    return chosen
