"""What every data set becomes: a named split of records, each a text with its video."""

import dataclasses
import functools
import pathlib
import re

import numpy as np
from jaxtyping import Int

from hbi_jax.data.text import clean

# Of an id or value that goes on and on, this many characters are enough to find it.
_SHOWN = 600
# Half of a character beyond the first 65,536, such as an emoji; no file can be written with it.
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Annotations or videos that are not what a data set needs.

    Attributes:
      field: What is wrong: a file and row, a folder, an option.
      got: What was found there.
      wanted: What should be there.
      remedy: What to do about it.
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
    """A text that describes a video or a part of it, or asks about it.

    Attributes:
      text: The caption or question as annotated, not cleaned.
      video_id: The video's name in the annotations; two clips of one file need two names.
      path: The video file. It need not exist: a missing file counts as an unreadable video.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      group: Records of one group are near-twins that an evaluation tells apart; `None` where there are none.
      source: File and row that the record comes from, for messages.
      answer: The answer to a question; `None` for captions.
      answer_type: The kind of the question, by which results are told apart; `None` for captions.
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


@dataclasses.dataclass(frozen=True)
class Split:
    """The records of one split, checked.

    Attributes:
      name: The split's name, for messages.
      records: At least one; record `i` is row `i` of everything that is computed from the split.
      notes: What is odd about the annotations, and yet no error.

    Raises:
      DataError: If there is no record, a text is empty or has half a character, or one video id stands for different
        clips.
    """

    name: str
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()

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
        """The first record of each distinct video, in order of appearance."""
        first: dict[str, Record] = {}
        for record in self.records:
            first.setdefault(record.video_id, record)
        return tuple(first.values())

    @functools.cached_property
    def video_index(self) -> Int[np.ndarray, " n"]:
        """For each record, the position of its video in `videos`."""
        positions = {record.video_id: position for position, record in enumerate(self.videos)}
        return np.asarray([positions[record.video_id] for record in self.records], np.int32)

    @property
    def num_videos(self) -> int:
        """How many distinct videos the records have."""
        return len(self.videos)
