"""MSRVTT-QA as distributed: one question file per split (JSON lines) about the videos of MSR-VTT."""

import pathlib
from collections.abc import Mapping
from typing import Any

from hbi_jax.data.datasets.questions import Question, question_type, read_entries, split_of_questions
from hbi_jax.data.datasets.readers import folder
from hbi_jax.data.datasets.records import Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles

GALLERIES: Mapping[str, str] = {"test": "test.jsonl"}

_WANTED = "answer (not empty), question, video_id and, if there is one, answer_type, all of them text"


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
    """Returns one split: one record per question, in file order.

    A file has one object per line with the keys answer, question, video_id and answer_type (all text). If
    `<name>.jsonl` is absent, `<name>.json` is read instead, a list of the same objects. If answer_type is missing,
    `question_type` derives it from the question.

    Args:
      annotations: Folder of the questions.
      videos: Folder of the video files, `<video_id>.mp4` or any other of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: File of the training questions.
      val_list: File of the validation questions.
      num_val_videos: Must be 0; the validation questions have a file of their own.
      galleries: Question file of each gallery.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file or line is missing or malformed, if an answer is empty, if an id is not a plain
        file name, or if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    return split_of_questions(split, lists, lambda name: read_entries(annotations / name), _parse, _WANTED, files)


def _parse(entry: Any) -> Question | None:
    match entry:
        case {"answer": str(answer), "question": str(text), "video_id": str(video_id)} if isinstance(
            kind := entry.get("answer_type", question_type(text)), str
        ):
            return Question(text, answer, kind, video_id)
    return None
