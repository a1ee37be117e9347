"""Accuracy by hand."""

import pytest

from hbi_jax.tasks.answers.metrics import answer_accuracy

GIVEN = ["red", "two", "blue", "red", "one"]
RIGHT = ["red", "two", "red", "mauve", "two"]
TYPES = ["which", "how many", "which", "which", "how many"]


def test_of_all_questions():
    """Two of five; of three "which" one, of two "how many" one."""
    found = answer_accuracy(GIVEN, RIGHT, TYPES)
    assert found.overall == 40
    assert found.by_type == {"which": pytest.approx(100 / 3), "how many": 50}
    assert list(found.counts.items()) == [("which", 3), ("how many", 2)]


def test_of_questions_whose_answer_is_known():
    found = answer_accuracy(GIVEN, RIGHT, TYPES, {"red", "two", "green"})
    assert found.overall == 50
    assert found.by_type == {"how many": 50, "which": 50}
    assert found.counts == {"how many": 2, "which": 2}
    # A type of which no question is left has no accuracy.
    assert answer_accuracy(GIVEN, RIGHT, TYPES, {"mauve"}).by_type == {"which": 0}


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="0 questions with an answer"):
        answer_accuracy(GIVEN, RIGHT, TYPES, {"green"})
    with pytest.raises(ValueError, match="4 answers, 5 right ones and 5 types"):
        answer_accuracy(GIVEN[:-1], RIGHT, TYPES)
