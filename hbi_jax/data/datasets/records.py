"""The common form of all data sets: a named split of records, each a text with its video."""

import dataclasses
import functools
import pathlib
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from hbi_jax.data.text import clean

# Error messages cut ids and values to this many characters, enough to find them.
_SHOWN = 600
# An unpaired surrogate: half of a character such as an emoji. It cannot be encoded, so it cannot be written to a file.
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """An error in the annotations or videos of a data set.

    Attributes:
      field: The place of the error: a file and row, a folder or an option.
      got: The value found.
      wanted: The value expected.
      remedy: How to correct the error.
    """

    def __init__(self, field: str, got: str, wanted: str, remedy: str):
        field, got = _cut(field), _cut(got)
        super().__init__(field, got, wanted, remedy)
        self.field, self.got, self.wanted, self.remedy = field, got, wanted, remedy

    def __str__(self) -> str:
        return f"{self.field}: got {self.got}, wanted {self.wanted}; {self.remedy}."


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"


@dataclasses.dataclass(frozen=True)
class Record:
    """A caption or question about a video or a clip of it.

    Attributes:
      text: The caption or question as annotated, not cleaned.
      video_id: The video's name in the annotations. Two clips of one file need different names.
      path: The video file. It need not exist: a missing file counts as an unreadable video.
      start, end: Bounds of the clip in seconds; `None` means the start or end of the file.
      group: Group of near-twins that the record belongs to; `None` if it has no near-twins.
      source: File and row of the record, for messages.
      answer: The answer to a question; `None` for captions.
      answer_type: Type of the question, by which results are broken down; `None` for captions.
    """

    text: str
    video_id: str
    path: pathlib.Path
    start: float | int | None = None
    end: float | int | None = None
    group: str | None = None
    source: str = ""
    answer: str | None = None
    answer_type: str | None = None


class Note(NamedTuple):
    """A warning about the annotations: the file it concerns, and what was noticed."""

    subject: str
    text: str


@dataclasses.dataclass(frozen=True)
class Split:
    """The validated records of one split.

    Attributes:
      name: The split's name, for messages.
      records: At least one record. Record `i` is row `i` of every array computed from the split.
      notes: Warnings about the annotations.

    Raises:
      DataError: If there are no records, a text is empty or contains half a character, or one video id stands for
        different clips.
    """

    name: str
    records: tuple[Record, ...]
    notes: tuple[Note, ...] = ()

    def __post_init__(self):
        if not self.records:
            raise DataError(f"split {self.name!r}", "no records", "at least one", "check its list of videos")
        clips: dict[str, tuple[pathlib.Path, float | int | None, float | int | None]] = {}
        for number, record in enumerate(self.records):
            field = f"{record.source or f'record {number}'} (split {self.name!r}, video {record.video_id!r})"
            if not clean(record.text):
                got = "an empty caption" if record.answer is None else "an empty question"
                raise DataError(field, got, "text", "correct or remove the annotation")
            for value in (record.text, record.answer, record.group):
                if value and (half := _SURROGATE.search(value)):
                    got = f"half a character (\\u{ord(half[0]):04x}) in {value[:_SHOWN]!a}"
                    raise DataError(field, got, "whole characters", "correct the text; an emoji was cut in two")
            clip = (record.path, record.start, record.end)
            if clips.setdefault(record.video_id, clip) != clip:
                raise DataError(field, "a second clip of that name", "one", "give each clip an id of its own")

    @functools.cached_property
    def videos(self) -> tuple[Record, ...]:
        """Returns the first record of each distinct video, in order of appearance."""
        first: dict[str, Record] = {}
        for record in self.records:
            first.setdefault(record.video_id, record)
        return tuple(first.values())

    @functools.cached_property
    def video_index(self) -> Int[np.ndarray, " n"]:
        """Returns the index into `videos` of each record's video."""
        positions = {record.video_id: position for position, record in enumerate(self.videos)}
        return np.asarray([positions[record.video_id] for record in self.records], np.int32)

    @property
    def num_videos(self) -> int:
        """Returns the number of distinct videos."""
        return len(self.videos)
