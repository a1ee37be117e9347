"""What training answers alone say, and the table of a set of questions, by hand."""

import pathlib

import pytest

from hbi_jax.data.answers import Vocabulary
from hbi_jax.data.datasets import Record
from hbi_jax.evaluate.answers import accuracies, accuracy_table, most_frequent_answers


def asked(*questions):
    return [
        Record(text, "v", pathlib.Path("v.mp4"), answer=answer, answer_type=kind) for text, kind, answer in questions
    ]


TRAIN = asked(
    ("how many?", "how many", "two"),
    ("How  many?", "how many", "one"),
    ("how many?", "how many", "one"),
    ("how many small?", "how many", "two"),
    ("how many large?", "how many", "two"),
    ("how many large?", "how many", "zero"),
    ("which?", "which", "red"),
)
TEST = asked(
    ("how many?", "how many", "one"),
    ("how many rings?", "how many", "one"),
    ("which?", "which", "mauve"),
    ("where?", "where", "left"),
)
VOCABULARY = Vocabulary(("one", "two", "red"))


def test_the_most_frequent_answer_of_the_narrowest_that_training_knows():
    """Of the same question, but for case and blanks; of its type (two: 3, one: 2); of all (two: 3)."""
    assert most_frequent_answers(TRAIN, TEST) == ["one", "two", "red", "two"]
    # Equally frequent ones by their text.
    assert most_frequent_answers(TRAIN, asked(("how many large?", "how many", ""))) == ["two"]


def test_both_protocols():
    given = ["one", "one", "red", "left"]
    everything, known = accuracies(given, TEST, VOCABULARY)
    assert (everything.overall, known.overall) == (75, 100)
    assert accuracies(given, TEST, Vocabulary(("green",)))[1] is None


def test_the_table_names_methods_and_protocols():
    methods = {"model": ["one", "two", "red", "two"], "prior": most_frequent_answers(TRAIN, TEST)}
    table = accuracy_table("Questions", methods, TEST, VOCABULARY)
    assert table.columns == ("overall, %", "how many, %", "where, %", "which, %")
    assert table.rows[:2] == [
        ("model: all questions", [25, 50, 0, 0]),
        ("model: answer in the vocabulary", [50, 50, None, None]),
    ]
    assert [name for name, _ in table.rows[2:]] == ["prior: all questions", "prior: answer in the vocabulary"]
    assert table.note == (
        "4 questions (how many 2, where 1, which 1), 2 of them with an answer among the 3 of the vocabulary."
    )
    assert table.headline == (
        "**Questions**: **25.0 %** of 4 questions are answered right (50.0 % of those that the vocabulary can answer); "
        "prior: 25.0 %."
    )


@pytest.mark.parametrize(
    ("answers", "names", "note"),
    [
        (("one", "left", "mauve"), ["model: all questions"], "both protocols are the same."),
        (("green",), ["model: all questions", "model: answer in the vocabulary"], "0 of them with an answer among"),
    ],
)
def test_a_vocabulary_with_all_answers_or_none(answers, names, note):
    table = accuracy_table("Questions", {"model": ["one"] * 4}, TEST, Vocabulary(answers))
    assert [name for name, _ in table.rows] == names
    assert table.rows[0][1] == [50, 100, 0, 0]
    assert note in table.note
    assert all(values == [None] * 4 for _, values in table.rows[1:])
