"""ActivityNet-QA as distributed: each split has a question file and an answer file, joined by question id."""

import pathlib
from collections.abc import Mapping
from typing import Any

from hbi_jax.data.datasets.questions import Entries, Question, read_entries, split_of_questions
from hbi_jax.data.datasets.readers import folder, shown
from hbi_jax.data.datasets.records import DataError, Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles

GALLERIES: Mapping[str, str] = {"test": "test_q.json"}

# Indexed by the type number used in the files.
TYPES = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes or no",
    "color",
    "object",
    "location",
    "number",
    "other",
)
# Some copies of the videos are named by ActivityNet's id, which begins so, others by what follows: YouTube's.
_PREFIX = "v_"
_QUESTIONS, _ANSWERS = "_q", "_a"
_WANTED = f"answer (not empty), question and video_name (text) and type (0 to {len(TYPES) - 1})"


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train_q.json",
    val_list: str = "val_q.json",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
) -> Split:
    """Returns one split: one record per question, in file order.

    A question file `<name>_q.json` is a list of objects with the keys question, question_id and video_name (text).
    The answer file `<name>_a.json` beside it is a list of objects with the keys question_id and answer (text) and
    type (a number, see `TYPES`). If a `.json` file is absent, the `.jsonl` file of the same name is read instead, with
    one object per line.

    Args:
      annotations: Folder of the questions and answers.
      videos: Folder of the video files, `v_<video_name>` or `<video_name>` with one of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: File of the training questions.
      val_list: File of the validation questions.
      num_val_videos: Must be 0; the validation questions have a file of their own.
      galleries: Question file of each gallery.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file or entry is missing or malformed, if a question has no answer or several, if an
        answer is empty, if an id is not a plain file name, or if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos, _PREFIX)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    return split_of_questions(split, lists, lambda name: _answered(annotations / name), _parse, _WANTED, files)


def _answered(path: pathlib.Path) -> Entries:
    """Returns each question merged with its answer into one entry."""
    if not path.stem.endswith(_QUESTIONS):
        wanted = f"a name that ends on {_QUESTIONS}{path.suffix}, beside the answers in {_ANSWERS}{path.suffix}"
        raise DataError("file of questions", repr(path.name), wanted, "rename both")
    beside = path.with_stem(path.stem.removesuffix(_QUESTIONS) + _ANSWERS)
    questions, answers = _by_id(path), _by_id(beside)
    for number, (source, _) in questions.items():
        if number not in answers:
            got = f"no answer to question {shown(number)} in {beside}"
            raise DataError(source, got, "one", "check that the two files belong together")
    return [(source, {**entry, **answers[number][1]}) for number, (source, entry) in questions.items()]


def _by_id(path: pathlib.Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the entries of a file and their sources, keyed by question id."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for source, entry in read_entries(path):
        match entry:
            case {"question_id": str(number)}:
                if number in found:
                    got = f"question_id {shown(number)} once more, after {found[number][0]}"
                    raise DataError(source, got, "each once", "remove the repetition")
                found[number] = source, entry
            case _:
                raise DataError(source, shown(entry), "an object with a question_id (text)", "correct the file")
    return found


def _parse(entry: Any) -> Question | None:
    match entry:
        case {"answer": str(answer), "question": str(text), "video_name": str(name), "type": number} if (
            number in range(len(TYPES)) and type(number) is int
        ):
            return Question(text, answer, TYPES[number], _PREFIX + name)
    return None
