"""MSVD-QA as distributed: one question file per split, and a mapping from clip numbers to file names."""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from hbi_jax.data.datasets.questions import Question, question_type, read_entries, split_of_questions
from hbi_jax.data.datasets.readers import folder, read_lines, shown
from hbi_jax.data.datasets.records import DataError, Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles

GALLERIES: Mapping[str, str] = {"test": "test_qa.json"}

_WANTED = "answer (not empty) and question (text), and video_id (a number, or the name of a file)"


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train_qa.json",
    val_list: str = "val_qa.json",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
    mapping: str = "youtube_mapping.txt",
) -> Split:
    """Returns one split: one record per question, in file order.

    A file is a list of objects with the keys answer and question (text) and video_id (the number k of the clip
    `vid<k>`, or a name as text). If `<name>.json` is absent, `<name>.jsonl` is read instead, with the same objects one
    per line. `question_type` derives each answer type from the question.

    Args:
      annotations: Folder of the questions and of the mapping.
      videos: Folder of the video files, named `vid<k>` or by the mapped name of `vid<k>`, with .avi or any other of
        `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: File of the training questions.
      val_list: File of the validation questions.
      num_val_videos: Must be 0; the validation questions have a file of their own.
      galleries: Question file of each gallery.
      mapping: File with a line `<name> vid<k>` for each clip; optional if the files are named `vid<k>`.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file or entry is missing or malformed, if an answer is empty, if an id is not a plain file
        name, or if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    other_names = _other_names(annotations / mapping)

    def find(video_id: str, source: str) -> pathlib.Path:
        path = files.find(video_id, source)
        if video_id in other_names and not path.exists():
            other = files.find(other_names[video_id], f"{annotations / mapping}, {video_id!r}")
            return other if other.exists() else path
        return path

    lists = Lists(train_list, val_list, num_val_videos, galleries)
    return split_of_questions(
        split, lists, lambda name: read_entries(annotations / name), _parse, _WANTED, files, functools.cache(find)
    )


def _parse(entry: Any) -> Question | None:
    match entry:
        case {"answer": str(answer), "question": str(text), "video_id": video} if type(video) in (int, str):
            return Question(text, answer, question_type(text), video if isinstance(video, str) else f"vid{video}")
    return None


def _other_names(path: pathlib.Path) -> dict[str, str]:
    """Returns a map from each of a clip's two names to the other; empty if the mapping file is absent."""
    names: dict[str, str] = {}
    for number, line in read_lines(path) if path.exists() else ():
        field = f"{path}, line {number}"
        if not re.fullmatch(r"\S+\s+vid\d+", line):
            raise DataError(field, shown(line), 'a name and "vid<number>", with a blank between', "correct the line")
        for one, other in (pair := line.split()), pair[::-1]:
            if one in names:
                raise DataError(field, f"{shown(one)} once more", "each clip once", "remove the repetition")
            names[one] = other
    return names
