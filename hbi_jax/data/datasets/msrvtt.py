"""MSR-VTT as it is distributed: lists of videos (CSV), all captions (JSON) and one video file an id.

Any other data becomes readable by writing it in this layout, as the embedded data set does.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hbi_jax.data.datasets import splits
from hbi_jax.data.datasets.readers import folder, read_csv, read_json
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.videos import VideoFiles

GALLERIES: Mapping[str, str] = {"test": "MSRVTT_JSFUSION_test.csv"}


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
      videos: Folder of the video files, `<video_id>.mp4` or another of `videos.EXTENSIONS`.
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
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    lists = (lambda name: _ids(annotations / name)), train_list, val_list, num_val_videos
    if split == "train":
        records = _captions(annotations / captions, splits.train_ids(*lists), max_captions_per_video, files)
    elif split == "val":
        records = _captions(annotations / captions, splits.val_ids(*lists), 1, files)
    else:
        records = _gallery(annotations / splits.gallery_file(split, galleries), files)
    files.check(records)
    return Split(split, tuple(records))


def _ids(path: pathlib.Path) -> Sequence[str]:
    return splits.distinct(path, (row["video_id"] for _, row in read_csv(path, ("video_id",))))


def _gallery(path: pathlib.Path, files: VideoFiles) -> list[Record]:
    return [
        _record(row["video_id"], row["sentence"], f"{path}, line {line}", files, row.get("group") or None)
        for line, row in read_csv(path, ("video_id", "sentence"))
    ]


def _captions(path: pathlib.Path, ids: Iterable[str], limit: int | None, files: VideoFiles) -> list[Record]:
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
        _record(video_id, caption, f"{path}, sen_id {sen_id}", files)
        for video_id, found in captions.items()
        for sen_id, caption in sorted(found)[:limit]
    ]


def _sentences(path: pathlib.Path) -> Sequence[Any]:
    """The list under "sentences" of a JSON file."""
    data = read_json(path)
    sentences = data.get("sentences") if isinstance(data, dict) else None
    if not isinstance(sentences, list):
        got = f"the keys {sorted(data)}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise DataError(f"{path}", got, 'an object with a list "sentences"', "check that it is the caption file")
    return sentences


def _record(video_id: str, text: str, source: str, files: VideoFiles, group: str | None = None) -> Record:
    return Record(text=text, video_id=video_id, path=files.find(video_id, source), group=group, source=source)
