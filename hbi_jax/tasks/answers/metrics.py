"""Accuracy of answers, overall and for each type of question."""

import collections
from collections.abc import Collection, Sequence
from typing import NamedTuple


class Accuracy(NamedTuple):
    """The share of questions that were answered right.

    Attributes:
      overall: Accuracy over all questions, in percent.
      by_type: Accuracy by question type, in percent, the most frequent type first.
      counts: Number of questions by type, in the same order.
    """

    overall: float
    by_type: dict[str, float]
    counts: dict[str, int]


def answer_accuracy(
    given: Sequence[str], right: Sequence[str], types: Sequence[str], vocabulary: Collection[str] | None = None
) -> Accuracy:
    """Computes the accuracy of answers, compared as text. An answer outside the model's vocabulary counts as wrong.

    Args:
      given: The answers of the method.
      right: The right answers.
      types: The types of the questions.
      vocabulary: If given, only questions whose right answer is in it count.

    Raises:
      ValueError: If the lengths differ, or no question is left.
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
