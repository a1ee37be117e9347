"""Scores captions of the world's videos against the ground truth."""

from collections.abc import Mapping
from typing import NamedTuple

from hbi_jax.data.shapes.config import ShapesError
from hbi_jax.data.shapes.entities import Events
from hbi_jax.data.shapes.grammar import parse_caption


class Judgement(NamedTuple):
    """Caption accuracy, in percent of all captions.

    Attributes:
      first_event: Captions with the right first event: color, shape, action and, if mentioned, size.
      all_events: Captions with exactly the right events in the right order.
      readable: Captions that the grammar can parse. All others count as wrong.
    """

    first_event: float
    all_events: float
    readable: float


def judge(captions: Mapping[str, str], events: Mapping[str, Events]) -> Judgement:
    """Returns the accuracy of captions, parsed with the world's grammar.

    Args:
      captions: Caption by video id.
      events: Ground-truth events by video id, in chronological order. It may contain other videos.

    Raises:
      ValueError: If there are no captions.
      ShapesError: If a video has no ground truth.
    """
    if not captions:
        raise ValueError("there are 0 captions, wanted at least 1; caption some videos before judging them")
    if unknown := sorted(captions.keys() - events.keys()):
        raise ShapesError(
            f"there is no ground truth of video {unknown[0]!r}; load the ground truth of the world that has this video."
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
