"""MSR-VTT as it is distributed: lists of videos (CSV), all captions (JSON) and one video file an id.

Any other data becomes readable by writing it in this layout, as the embedded data set does.
"""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hbi_jax.data.datasets.records import DataError, Record, Split

# Where an id has several files, the first of these wins; a missing file is expected to have the first.
EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov")

GALLERIES: Mapping[str, str] = {"test": "MSRVTT_JSFUSION_test.csv", "twins": "MSRVTT_JSFUSION_twins.csv"}


class _Row(NamedTuple):
    """One caption of one video, and where it stands."""

    video_id: str
    sentence: str
    group: str | None
    source: str


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "MSRVTT_train.9k.csv",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
    captions: str = "MSRVTT_data.json",
    max_captions_per_video: int | None = None,
) -> Split:
    """Reads one split.

    `train` has a record for every caption of every video of the train list that `val` does not take. `val`
    has one record a video, with its first caption: the videos of `val_list`, or else the last
    `num_val_videos` of the train list. (The published code has no such split: it selects on the test videos.)
    Any other split is a gallery: one record a row of its CSV file, in the file's order.

    Args:
      annotations: Folder of the lists and captions.
      videos: Folder of the video files, `<video_id>.mp4` or another of `EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: CSV file with a column video_id.
      val_list: CSV file with a column video_id; empty for none.
      num_val_videos: How many videos of the train list are for validation where there is no `val_list`.
      galleries: CSV file of each gallery: columns video_id and sentence, and group where it has near-twins.
      captions: JSON file {"sentences": [{"caption", "video_id", "sen_id"}, ...]}; galleries need none.
      max_captions_per_video: Keep only that many captions of each train video, the lowest sen_id first.

    Returns:
      The split. Videos without a file are in it, with the path where the file was expected.

    Raises:
      DataError: If a folder, file, column, key or caption is missing or malformed, if an id is not a plain
        file name, or if no video of the split has a file.
    """
    annotations, videos = pathlib.Path(annotations), pathlib.Path(videos)
    for field, folder in (("annotations", annotations), ("videos", videos)):
        if not folder.is_dir():
            raise DataError(f"{field} {folder}", "no such folder", "a folder", "correct the path or get the data")
    if split == "train":
        ids = _train_ids(annotations, train_list, val_list, num_val_videos)
        rows = _captions(annotations / captions, ids, max_captions_per_video)
    elif split == "val":
        ids = _val_ids(annotations, train_list, val_list, num_val_videos)
        rows = _captions(annotations / captions, ids, 1)
    elif split in galleries:
        rows = _gallery(annotations / galleries[split])
    else:
        choices = ", ".join(["train", "val", *galleries])
        raise DataError("split", repr(split), f"one of {choices}", "correct the name or add it to galleries")
    return Split(split, tuple(_with_files(rows, videos)))


def _train_ids(annotations: pathlib.Path, train_list: str, val_list: str, num_val_videos: int) -> Sequence[str]:
    ids = _ids(annotations / train_list)
    if not val_list and num_val_videos == 0:
        return ids
    taken = set(_val_ids(annotations, train_list, val_list, num_val_videos))
    return [video_id for video_id in ids if video_id not in taken]


def _val_ids(annotations: pathlib.Path, train_list: str, val_list: str, num_val_videos: int) -> Sequence[str]:
    if val_list:
        return _ids(annotations / val_list)
    ids = _ids(annotations / train_list)
    if not 0 < num_val_videos < len(ids):
        wanted = f"a val_list, or a number below the {len(ids)} videos of {train_list}"
        raise DataError("num_val_videos", str(num_val_videos), wanted, "set one of them")
    return ids[-num_val_videos:]


def _ids(path: pathlib.Path) -> Sequence[str]:
    """The ids of a list of videos; each may stand there once."""
    counts = collections.Counter(row["video_id"] for _, row in _csv_rows(path, ("video_id",)))
    for video_id, count in counts.items():
        if count > 1:
            raise DataError(f"{path}", f"{video_id!r} {count} times", "each video once", "remove the repetition")
    return list(counts)


def _gallery(path: pathlib.Path) -> list[_Row]:
    return [
        _Row(row["video_id"], row["sentence"], row.get("group") or None, f"{path}, line {line}")
        for line, row in _csv_rows(path, ("video_id", "sentence"))
    ]


def _captions(path: pathlib.Path, ids: Iterable[str], limit: int | None) -> list[_Row]:
    """The first `limit` captions by sen_id of each video, in the order of `ids`."""
    if limit is not None and limit < 1:
        raise DataError("max_captions_per_video", str(limit), "at least 1, or None for all", "raise it")
    captions: dict[str, list[tuple[int, str]]] = {video_id: [] for video_id in ids}
    for number, sentence in enumerate(_sentences(path)):
        match sentence:
            case {"caption": str(caption), "video_id": str(video_id), "sen_id": int(sen_id)}:
                if video_id in captions:
                    captions[video_id].append((sen_id, caption))
            case _:
                wanted = "caption and video_id (text) and sen_id (a whole number)"
                raise DataError(f"{path}, sentences[{number}]", repr(sentence), wanted, "correct the file")
    for video_id, found in captions.items():
        if not found:
            raise DataError(f"{path}, {video_id!r}", "no caption", "at least one", "add one or unlist the video")
    return [
        _Row(video_id, caption, None, f"{path}, sen_id {sen_id}")
        for video_id, found in captions.items()
        for sen_id, caption in sorted(found)[:limit]
    ]


def _sentences(path: pathlib.Path) -> Sequence[Any]:
    """The list under "sentences" of a JSON file."""
    try:
        data = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}", f"malformed JSON ({error})", "a JSON file", "get the file again") from error
    sentences = data.get("sentences") if isinstance(data, dict) else None
    if not isinstance(sentences, list):
        got = f"the keys {sorted(data)}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise DataError(f"{path}", got, 'an object with a list "sentences"', "check that it is the caption file")
    return sentences


def _csv_rows(path: pathlib.Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file that has at least these columns, each with its line number."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    rows = []
    try:
        found = reader.fieldnames or []
        for column in columns:
            if column not in found:
                wanted = f"a column {column!r}"
                raise DataError(f"{path}", f"the columns {list(found)}", wanted, "name the columns in its first line")
        for row in reader:
            if None in row or None in row.values():
                wanted = f"the {len(found)} of the first line"
                raise DataError(f"{path}, line {reader.line_num}", "another number of values", wanted, "correct it")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        field = f"{path}, after line {reader.line_num}"
        raise DataError(field, f"malformed CSV ({error})", "a CSV file", "correct the line") from error
    return rows


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}", reason.lower(), "a readable file", "correct the name or get the file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}", "bytes that are not UTF-8", "a text file", "get the file again") from error


def _with_files(rows: Sequence[_Row], videos: pathlib.Path) -> list[Record]:
    """The rows as records, each with its video file."""
    rank = {extension: number for number, extension in enumerate(EXTENSIONS)}
    files: dict[str, pathlib.Path] = {}
    for path in sorted(videos.iterdir(), key=lambda path: rank.get(path.suffix.lower(), len(rank))):
        if path.suffix.lower() in rank:
            files.setdefault(path.stem, path)
    for row in rows:
        # An id becomes a part of a path: it must not lead out of the folder.
        if row.video_id in ("", ".", "..") or any(character in row.video_id for character in "/\\\0"):
            raise DataError(f"{row.source}, video_id", repr(row.video_id), "a plain file name", "correct the id")
    if rows and not any(row.video_id in files for row in rows):
        example = videos / (rows[0].video_id + EXTENSIONS[0])
        raise DataError(f"videos {videos}", "none of the split's videos", f"{example} and others", "correct the path")
    return [
        Record(
            text=row.sentence,
            video_id=row.video_id,
            path=files.get(row.video_id, videos / (row.video_id + EXTENSIONS[0])),
            group=row.group,
            source=row.source,
        )
        for row in rows
    ]
