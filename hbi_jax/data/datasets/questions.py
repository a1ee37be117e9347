"""Shared code of the question-answering data sets: turns the entries of question files into splits."""

import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hbi_jax.data.datasets.readers import read_json, read_json_lines, shown
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles
from hbi_jax.data.names import compared

# Pairs of a source (file and row) and the entry found there.
Entries = Iterable[tuple[str, Any]]

_QUESTION_WORDS = ("what", "who", "how", "when", "where", "which", "why")
_OTHER_SUFFIX = {".json": ".jsonl", ".jsonl": ".json"}


class Question(NamedTuple):
    """The fields of a question entry."""

    text: str
    answer: str
    answer_type: str
    video_id: str


def split_of_questions(
    split: str,
    lists: Lists,
    read: Callable[[str], Entries],
    parse: Callable[[Any], Question | None],
    wanted: str,
    files: VideoFiles,
    find: Callable[[str, str], pathlib.Path] | None = None,
) -> Split:
    """Returns a split with one record per question, in file order.

    Args:
      split: Name of the split.
      lists: The question files.
      read: Returns the entries of a file, given its name.
      parse: Returns the fields of an entry, or None if the entry is malformed.
      wanted: The expected form of an entry, for error messages.
      files: The video files.
      find: Returns the file of a video, given its id and source; defaults to `files.find`.

    Raises:
      DataError: If the split is unknown, an entry is malformed, an answer is empty, or no video has a file.
    """
    if lists.num_val_videos:
        remedy = "set it to 0 and name the file of validation questions in val_list"
        raise DataError("num_val_videos", str(lists.num_val_videos), "0, as questions are not held out", remedy)
    records = []
    for source, entry in read(lists.name(split)):
        question = parse(entry)
        if question is None or not question.answer.strip():
            raise DataError(source, shown(entry), wanted, "correct the file")
        text, answer, answer_type, video_id = question
        answer, video_id = answer.strip(), compared(video_id)
        path = (find or files.find)(video_id, source)
        records.append(Record(text, video_id, path, source=source, answer=answer, answer_type=answer_type))
    files.check(records)
    return Split(split, tuple(records))


def read_entries(path: pathlib.Path) -> Entries:
    """Returns the entries of a `.jsonl` file (one per line) or a `.json` file (a list).

    If the file is absent, the file of the same name with the other of the two extensions is read instead.

    Raises:
      DataError: If the file is malformed.
    """
    other = path.with_suffix(_OTHER_SUFFIX.get(path.suffix, path.suffix))
    if not path.exists() and other.exists():
        path = other
    if path.suffix != ".json":
        return [(f"{path}, line {line}", entry) for line, entry in read_json_lines(path)]
    entries = read_json(path)
    if not isinstance(entries, list):
        remedy = "check that it is a file of questions or answers"
        raise DataError(f"{path}", f"a {type(entries).__name__}", "a list of questions or answers", remedy)
    return [(f"{path}, [{number}]", entry) for number, entry in enumerate(entries)]


def question_type(question: str) -> str:
    """Returns the MSRVTT-QA type of a question: its first word if that is a question word, otherwise "other"."""
    first = re.search(r"\w+", question.lower())
    return first[0] if first and first[0] in _QUESTION_WORDS else "other"
