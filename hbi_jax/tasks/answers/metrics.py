"""Accuracy of answers, overall and for each type of question."""

import collections
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Accuracy(NamedTuple):
    """How many questions were answered right.

    Attributes:
      overall: Percent of all questions.
      by_type: Percent of each type's questions, the most frequent type first.
      counts: Questions of each type, in the same order.
    """

    overall: float
    by_type: dict[str, float]
    counts: dict[str, int]


def answer_accuracy(
    given: Sequence[str], right: Sequence[str], types: Sequence[str], vocabulary: Collection[str] | None = None
) -> Accuracy:
    """Compares answers by their text, so that an answer which a model cannot give counts as one it got wrong.

    Args:
      given: The method's answers.
      right: The right ones.
      types: Of the questions.
      vocabulary: Only questions whose right answer is among these count; None: all do.

    Raises:
      ValueError: The three are not equally long, or no question is left.
    """
    if not len(given) == len(right) == len(types):
        raise ValueError(f"{len(given)} answers, {len(right)} right ones and {len(types)} types: wanted one a question")
    kept = [
        (kind, one == other)
        for one, other, kind in zip(given, right, types, strict=True)
        if vocabulary is None or other in vocabulary
    ]
    if not kept:
        raise ValueError("there are 0 questions with an answer, wanted at least 1; use a larger split or vocabulary")
    counts = dict(sorted(collections.Counter(kind for kind, _ in kept).items(), key=lambda item: (-item[1], item[0])))
    hits = collections.Counter(kind for kind, hit in kept if hit)
    return Accuracy(
        overall=100 * hits.total() / len(kept),
        by_type={kind: 100 * hits[kind] / count for kind, count in counts.items()},
        counts=counts,
    )
