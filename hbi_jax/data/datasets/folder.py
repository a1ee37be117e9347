"""Your own videos: a folder, with or without subfolders, and a table of captions (CSV or JSON lines)."""

import collections
import functools
import logging
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hbi_jax.data.datasets.readers import folder, read_csv, read_json_lines, shown
from hbi_jax.data.datasets.records import DataError, Note, Record, Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles

_log = logging.getLogger(__name__)

# Value of the column `split` for each gallery.
GALLERIES: Mapping[str, str] = {"test": "test"}

# In seconds. A greater time is damaged or in another unit.
_LONGEST = 1e6
_OPTIONAL = ("start", "end", "split", "group")

# A row of the table, with its file and line.
_Row = tuple[str, Mapping[str, Any]]


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
    captions: str = "captions.csv",
) -> Split:
    """Returns one split: one record per row, in table order.

    Required columns are `video` and `caption`. `video` is a path relative to the video folder, or only the file name
    if it is unique; the extension may be omitted. Optional columns are `start` and `end`, the bounds of the captioned
    clip in seconds; `group`, which marks near-twins; and `split`, whose values take the place of other data sets'
    lists. A table without `split` is a gallery, under any name, and cannot be used for training.

    Args:
      annotations: Folder of the table.
      videos: Folder of the video files, searched recursively, with any of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: The table's name for the training split.
      val_list: The table's name for the validation split; empty for none.
      num_val_videos: Number of training videos to hold out, the last ones, if `val_list` is empty.
      galleries: The table's name for each gallery.
      captions: The table: CSV with a header line, or .jsonl with one JSON object per line. If `<name>.csv` is absent,
        `<name>.jsonl` is read instead.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file, column or value is missing or malformed, if a video's path is not
        within the video folder, or if no video of the split has a file.
    """
    path, files = folder("annotations", annotations) / captions, VideoFiles(videos, recursive=True)
    lists, rows = Lists(train_list, val_list, num_val_videos, galleries), _rows(path)
    name, notes = lists.name(split), ()
    if any(row["split"] for _, row in rows):
        notes = _unknown(path, rows, {train_list, val_list, *galleries.values()})
        kept = set(lists.ids(split, lambda name: _videos(rows, files, name)))
        rows = [row for row in rows if row[1]["split"] == name and str(_file(row, files)) in kept]
    elif split in ("train", "val"):
        wanted = f"a column 'split' that says which rows are {name!r}"
        raise DataError(f"{rows[0][0] if rows else path}", "no split", wanted, "add it: train, val, test")
    records = [_record(source, row, files, pathlib.Path(videos)) for source, row in rows]
    if not records and notes:
        got, wanted = ": ".join(notes[0]), f"rows of split {name!r}"
        raise DataError(f"split {split!r}", got, wanted, "correct the names of the splits")
    files.check(records)
    return Split(split, tuple(records), notes)


def _unknown(path: pathlib.Path, rows: Sequence[_Row], known: Collection[str]) -> tuple[Note, ...]:
    """Returns a note about split names in the table that no field names, such as "Train", with their row counts."""
    counts = collections.Counter(row["split"] for _, row in rows if row["split"] not in known)
    if not counts:
        return ()
    named = ", ".join(f"{count} of split {shown(name)}" for name, count in counts.most_common())
    names = ", ".join(sorted(filter(None, known)))
    note = Note(str(path), f"rows that no field names and nothing reads: {named} (named are {names})")
    _warn(note)
    return (note,)


@functools.cache
def _warn(note: Note) -> None:
    """Logs a note once, even if several splits are read from the same table."""
    _log.warning("%s: %s", *note)


def _rows(path: pathlib.Path) -> Sequence[_Row]:
    """Returns the rows with all columns; empty and missing values are `None`."""
    if path.suffix == ".csv" and not path.exists() and path.with_suffix(".jsonl").exists():
        path = path.with_suffix(".jsonl")
    read = read_json_lines(path) if path.suffix == ".jsonl" else read_csv(path, ("video", "caption"))
    rows = []
    for line, row in read:
        source = f"{path}, line {line}"
        if isinstance(row, dict):
            row = {name: value.strip() if isinstance(value, str) else value for name, value in row.items()}
        match row:
            case {"video": str(video), "caption": str(caption)}:
                given = {name: None if row.get(name) == "" else row.get(name) for name in _OPTIONAL}
            case _:
                raise DataError(source, shown(row), "video and caption (text)", "correct the file")
        if not all(given[name] is None or isinstance(given[name], str) for name in ("split", "group")):
            raise DataError(source, shown(row), "split and group, where there are any, as text", "correct the file")
        rows.append((source, {**given, "video": video, "caption": caption}))
    return rows


def _file(row: _Row, files: VideoFiles) -> pathlib.Path:
    """Returns the file of a row: tables may spell the name of one video differently."""
    source, values = row
    return files.find(values["video"], source)


def _videos(rows: Sequence[_Row], files: VideoFiles, split: str) -> Sequence[str]:
    """Returns the distinct videos of a split, so that all clips of a video are held out together."""
    return list(dict.fromkeys(str(_file(row, files)) for row in rows if row[1]["split"] == split))


def _record(source: str, row: Mapping[str, Any], files: VideoFiles, videos: pathlib.Path) -> Record:
    start, end = _seconds(source, row, "start"), _seconds(source, row, "end")
    if end is not None and end <= (start or 0):
        raise DataError(source, f"start {start}, end {end}", "a clip that ends after it starts", "correct the times")
    path = _file((source, row), files)
    # The path on disk is the id, so that different spellings in the table name the same video.
    video_id = path.relative_to(videos).as_posix()
    if start is not None or end is not None:
        video_id += f" {_written(start or 0.0)}-{'' if end is None else _written(end)} s"
    return Record(row["caption"], video_id, path, start, end, row["group"], source)


def _written(seconds: float) -> str:
    """Returns all digits of a time, so that no two clips have one id."""
    return repr(seconds).removesuffix(".0")


def _seconds(source: str, row: Mapping[str, Any], field: str) -> float | None:
    value = row[field]
    try:
        # CSV stores numbers as text.
        seconds = float(value) if isinstance(value, str) else value
    except ValueError:
        seconds = value
    if seconds is not None and not (type(seconds) in (int, float) and 0 <= seconds <= _LONGEST):
        wanted = f"seconds (0 to {_LONGEST:.0f}) or nothing"
        raise DataError(f"{source}, {field}", shown(value), wanted, "correct the time")
    return None if seconds is None else float(seconds)
