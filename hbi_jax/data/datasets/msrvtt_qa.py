"""MSRVTT-QA as it is distributed: a file of questions a split (JSON lines) about the videos of MSR-VTT."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from hbi_jax.data.datasets import splits
from hbi_jax.data.datasets.readers import folder, read_json, read_json_lines
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.videos import VideoFiles

GALLERIES: Mapping[str, str] = {"test": "test.jsonl"}

_QUESTION_WORDS = ("what", "who", "how", "when", "where", "which", "why")


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train.jsonl",
    val_list: str = "val.jsonl",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
) -> Split:
    """Reads one split: a record a question, in the order of its file.

    A file has one object a line with the keys answer, question, video_id and answer_type, all of them text. Where
    instead of `<name>.jsonl` there is a `<name>.json`, that is read: a list of the same objects. Without an
    answer_type it is `question_type` of the question.

    Args:
      annotations: Folder of the questions.
      videos: Folder of the video files, `<video_id>.mp4` or another of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: File of the training questions.
      val_list: File of the validation questions.
      num_val_videos: 0: validation has questions of its own.
      galleries: File of each other set of questions.

    Returns:
      The split. Videos without a file are in it, with the path where the file was expected.

    Raises:
      DataError: If a folder, file or line is missing or malformed, if an answer is empty, if an id is not a plain
        file name, or if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    if num_val_videos:
        remedy = "set it to 0 and name the file of validation questions in val_list"
        raise DataError("num_val_videos", str(num_val_videos), "0, as questions are not held out", remedy)
    lists = {**galleries, "train": train_list, "val": val_list}
    records = []
    for source, question in _questions(annotations / splits.gallery_file(split, lists)):
        match question:
            case {"answer": str(answer), "question": str(text), "video_id": str(video_id)} if (
                answer.strip() and isinstance(answer_type := question.get("answer_type", question_type(text)), str)
            ):
                path = files.find(video_id, source)
                records.append(Record(text, video_id, path, source=source, answer=answer, answer_type=answer_type))
            case _:
                wanted = "answer (not empty), question, video_id and, if there is one, answer_type, all of them text"
                raise DataError(source, repr(question), wanted, "correct the file")
    files.check(records)
    return Split(split, tuple(records))


def question_type(question: str) -> str:
    """The kind of a question as MSRVTT-QA names it: its first word if that asks for something, or else "other"."""
    first = re.search(r"\w+", question.lower())
    return first[0] if first and first[0] in _QUESTION_WORDS else "other"


def _questions(path: pathlib.Path) -> list[tuple[str, Any]]:
    """The entries of a file of questions, each with file and row."""
    if path.suffix == ".jsonl" and not path.exists() and path.with_suffix(".json").exists():
        path = path.with_suffix(".json")
    if path.suffix != ".json":
        return [(f"{path}, line {line}", question) for line, question in read_json_lines(path)]
    questions = read_json(path)
    if not isinstance(questions, list):
        remedy = "check that it is a file of questions"
        raise DataError(f"{path}", f"a {type(questions).__name__}", "a list of questions", remedy)
    return [(f"{path}, [{number}]", question) for number, question in enumerate(questions)]
