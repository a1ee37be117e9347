import json

import pytest
from etils import epath

from hbi_jax.data.datasets import DataError
from hbi_jax.tasks.answers.vocabulary import Vocabulary

ANSWERS = ["dog", "man", "cat", "dog", "Man", "cat", "dog"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("dog", "cat", "Man", "man")),
        ({"top": 3}, ("dog", "cat", "Man")),
        ({"top": 9}, ("dog", "cat", "Man", "man")),
        ({"min_count": 2}, ("dog", "cat")),
        ({"min_count": 2, "top": 1}, ("dog",)),
    ],
)
def test_the_most_frequent_answers_come_first(options, expected):
    assert Vocabulary.build(ANSWERS, **options).answers == expected
    assert Vocabulary.build(reversed(ANSWERS), **options).answers == expected


def test_an_answer_has_its_position_and_an_unknown_one_has_none():
    vocabulary = Vocabulary(("b", "a"))
    assert [vocabulary.index(answer) for answer in ("a", "b", "c", "A", "")] == [1, 0, -1, -1, -1]
    assert len(vocabulary) == 2


def test_what_is_written_is_read(tmp_path):
    vocabulary = Vocabulary(("zoo", "a", 'zwölf "quoted"', "\u2028"))
    vocabulary.write(epath.Path(tmp_path) / "vocabulary.json")
    for path in (str(tmp_path / "vocabulary.json"), epath.Path(tmp_path) / "vocabulary.json"):
        assert Vocabulary.read(path) == vocabulary
    assert json.loads((tmp_path / "vocabulary.json").read_text())["a"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"answers\.json: got malformed JSON"),
        ("[]", r"answers\.json: got a list, wanted an object \{answer: label\}"),
        ("{}", "vocabulary: got no answers"),
        ('{"a": 0, "b": 0}', r"answers\.json, 'b': got the label 0 of 'a', wanted a label of its own"),
        ('{"a": 0, "b": 2}', r"'b': got 2, wanted a label from 0 to 1, one less than the number of answers"),
        ('{"a": -1, "b": 0}', "'a': got -1, wanted a label from 0 to 1"),
        ('{"a": "0"}', "'a': got '0', wanted a label"),
        ('{"a": false}', "'a': got False, wanted a label"),
        ('{"a": 0.0}', r"'a': got 0\.0, wanted a label"),
        ('{"a": 0, "a": 1}', "the key 'a' 2 times"),
    ],
)
def test_malformed_files_are_named(tmp_path, content, message):
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Vocabulary.read(tmp_path / "answers.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: got no such file"):
        Vocabulary.read(tmp_path / "absent.json")


def test_answers_are_some_and_distinct():
    with pytest.raises(DataError, match="vocabulary: got 'a' 2 times, wanted each answer once"):
        Vocabulary(("a", "b", "a"))
    with pytest.raises(DataError, match="vocabulary: got no answers"):
        Vocabulary.build(ANSWERS, min_count=4)


@pytest.mark.parametrize("options", [{"top": 0}, {"min_count": 0}])
def test_a_vocabulary_keeps_something(options):
    with pytest.raises(ValueError, match=r"top, min_count: got .*, wanted at least 1"):
        Vocabulary.build(ANSWERS, **options)
