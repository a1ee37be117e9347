"""The vocabulary of answers that a model chooses from, and their labels."""

import collections
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping

from hbi_jax.data.datasets.readers import read_json
from hbi_jax.data.datasets.records import DataError
from hbi_jax.files import replace_file


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A list of distinct answers, labelled by position. Answers are compared as written.

    Attributes:
      answers: At least one; `answers[i]` has the label `i`.

    Raises:
      DataError: If there is no answer, or an answer occurs twice.
    """

    answers: tuple[str, ...]

    def __post_init__(self):
        if not self.answers:
            raise DataError("vocabulary", "no answers", "at least one", "check the questions, top and min_count")
        if len(self._labels) < len(self.answers):
            [(answer, count)] = collections.Counter(self.answers).most_common(1)
            raise DataError("vocabulary", f"{answer!r} {count} times", "each answer once", "remove the repetition")

    def __len__(self) -> int:
        return len(self.answers)

    def index(self, answer: str) -> int:
        """Returns the label of an answer, or -1 if it is not in the vocabulary."""
        return self._labels.get(answer, -1)

    @functools.cached_property
    def _labels(self) -> Mapping[str, int]:
        return {answer: label for label, answer in enumerate(self.answers)}

    @classmethod
    def build(cls, answers: Iterable[str], top: int | None = None, min_count: int = 1) -> "Vocabulary":
        """Builds a vocabulary from training answers, the most frequent first, ties in alphabetical order.

        Args:
          answers: One answer per question.
          top: Number of answers to keep; None keeps all.
          min_count: Drop answers that occur less often.

        Raises:
          ValueError: If `top` or `min_count` is below 1.
          DataError: If no answer is left.
        """
        if min_count < 1 or (top is not None and top < 1):
            raise ValueError(f"top, min_count: got {top}, {min_count}, wanted at least 1 (or None for all answers).")
        counts = sorted(collections.Counter(answers).items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(answer for answer, count in counts if count >= min_count)[:top])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Reads a JSON file {answer: label}, such as MSRVTT-QA's train_ans2label.json.

        Args:
          path: The file. A string is a local path; a path object may also point to cloud storage.

        Raises:
          DataError: If the file cannot be read, or its labels are not 0, 1, 2, ..., each once.
        """
        labels = read_json(_path(path))
        if not isinstance(labels, dict):
            remedy = "check that it is the file of answers"
            raise DataError(f"{path}", f"a {type(labels).__name__}", "an object {answer: label}", remedy)
        answers: dict[int, str] = {}
        for answer, label in labels.items():
            if type(label) is not int or not 0 <= label < len(labels):
                wanted = f"a label from 0 to {len(labels) - 1}, one less than the number of answers"
                raise DataError(f"{path}, {answer!r}", repr(label), wanted, "number the answers without gaps")
            if answers.setdefault(label, answer) != answer:
                got = f"the label {label} of {answers[label]!r}"
                remedy = "number the answers without repetition"
                raise DataError(f"{path}, {answer!r}", got, "a label of its own", remedy)
        return cls(tuple(answers[label] for label in range(len(labels))))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary as a file for `read`."""
        replace_file(path, json.dumps(self._labels, indent=0) + "\n")


def _path(path: str | os.PathLike[str]) -> os.PathLike[str]:
    return pathlib.Path(path) if isinstance(path, str) else path
