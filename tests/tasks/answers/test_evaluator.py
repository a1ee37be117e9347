"""What training answers alone say, and the table of a set of questions, by hand."""

import pathlib

import pytest

from hbi_jax.data.datasets import Record
from hbi_jax.tasks.answers.evaluator import Method, accuracies, accuracy_table, most_frequent_answers
from hbi_jax.tasks.answers.vocabulary import Vocabulary


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
    methods = {
        "model": Method(["one", "two", "red", "two"]),
        "prior": Method(most_frequent_answers(TRAIN, TEST), "Prior: no model."),
    }
    table = accuracy_table("Questions", methods, TEST, VOCABULARY)
    assert [column.name for column in table.columns] == ["overall, %", "how many, %", "where, %", "which, %"]
    assert table.rows[:2] == [
        ("model: all questions", [25, 50, 0, 0], ""),
        ("model: answer in the vocabulary", [50, 50, None, None], ""),
    ]
    assert [row.note for row in table.rows[2:]] == ["Prior: no model."] * 2
    assert [row.method for row in table.rows[2:]] == ["prior: all questions", "prior: answer in the vocabulary"]
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
    table = accuracy_table("Questions", {"model": Method(["one"] * 4)}, TEST, Vocabulary(answers))
    assert [row.method for row in table.rows] == names
    assert table.rows[0].values == [50, 100, 0, 0]
    assert note in table.note
    assert all(values == [None] * 4 for _, values, _ in table.rows[1:])
