"""Judges what captions say of the world's videos by what happens in them."""

from collections.abc import Mapping
from typing import NamedTuple

from hbi_jax.data.shapes.config import ShapesError
from hbi_jax.data.shapes.entities import Events
from hbi_jax.data.shapes.grammar import parse_caption


class Judgement(NamedTuple):
    """How many captions are right, in percent.

    Attributes:
      first_event: They say what happens first: colour, shape and action, and size where they speak of it.
      all_events: They say all that happens, in the right order, and nothing else.
      readable: They are sentences of the grammar; others are wrong.
    """

    first_event: float
    all_events: float
    readable: float


def judge(captions: Mapping[str, str], events: Mapping[str, Events]) -> Judgement:
    """Reads captions by the world's own grammar and compares them with the truth.

    Args:
      captions: By video.
      events: What happens in each of these videos, in order; other videos may be there, too.

    Raises:
      ValueError: There is no caption.
      ShapesError: There is no truth about a video.
    """
    if not captions:
        raise ValueError("there are 0 captions, wanted at least 1; caption some videos before judging them")
    if unknown := sorted(captions.keys() - events.keys()):
        raise ShapesError(
            f"there is no ground truth of video {unknown[0]!r}; read that of the world which the videos are of."
        )
    first = every = readable = 0
    for video, caption in captions.items():
        try:
            said = parse_caption(caption)
        except ShapesError:
            continue
        happened = events[video]
        agreed = [one.agrees(other) for one, other in zip(said, happened, strict=False)]
        readable += 1
        first += agreed[0]
        every += all(agreed) and len(said) == len(happened)
    return Judgement(*(100 * count / len(captions) for count in (first, every, readable)))
