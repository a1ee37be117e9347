"""MSR-VTT as distributed: lists of videos (CSV), all captions (JSON) and one video file per id.

It provides two data sets: retrieval, which uses the lists and a gallery with one sentence per video, and captioning,
which uses the splits stated in the caption file. The embedded data set is written in this layout.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hbi_jax.data.datasets.readers import folder, read_csv, read_json, shown
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists, distinct
from hbi_jax.data.datasets.videos import VideoFiles
from hbi_jax.data.names import compared

GALLERIES: Mapping[str, str] = {"test": "MSRVTT_JSFUSION_test.csv"}
# The caption file's name for each gallery.
CAPTION_GALLERIES: Mapping[str, str] = {"test": "test"}


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
    """Returns one split for retrieval.

    `val` contains the videos of `val_list` or, without one, the last `num_val_videos` of the train list; it has one
    record per video, with the first caption. `train` has one record per caption of the remaining videos of the train
    list. (The published code has no validation split: it selects the checkpoint on the test videos.) Any other split
    is a gallery with one record per row of its CSV file, in file order.

    Args:
      annotations: Folder of the lists and captions.
      videos: Folder of the video files, `<video_id>.mp4` or any other of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: CSV file with a column video_id. MSRVTT_train.7k.csv is distributed, too.
      val_list: CSV file with a column video_id; empty for none.
      num_val_videos: Number of videos to hold out from the end of the train list if `val_list` is empty.
      galleries: CSV file of each gallery, with columns video_id and sentence, and group if it has near-twins.
      captions: JSON file {"sentences": [{"caption", "video_id", "sen_id"}, ...]}; galleries do not need it.
      max_captions_per_video: Maximum number of captions kept per training video, lowest sen_id first; None keeps all.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file, column, key or caption is missing or malformed, if an id is not a plain
        file name, or if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    if split in ("train", "val"):
        path, limit = annotations / captions, max_captions_per_video if split == "train" else 1
        ids = lists.ids(split, lambda name: _ids(annotations / name))
        records = _captions(path, _list(path, read_json(path), "sentences"), ids, limit, files)
    else:
        records = _gallery(annotations / lists.name(split), files)
    files.check(records)
    return Split(split, tuple(records))


def load_captioning(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = CAPTION_GALLERIES,
    captions: str = "MSRVTT_data.json",
) -> Split:
    """Returns one split for captioning: one record per caption, sorted by sen_id within each video.

    The caption file states the split of each video: as distributed, 6,513 are "train", 497 "validate" and 2,990
    "test". These names take the place of other data sets' lists.

    Args:
      annotations: Folder of the captions.
      videos: Folder of the video files, `<video_id>.mp4` or any other of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: The file's name for the training split.
      val_list: The file's name for the validation split, "validate" as distributed; empty for none.
      num_val_videos: Number of training videos to hold out, the last ones, if `val_list` is empty.
      galleries: The file's name for each gallery.
      captions: JSON file {"videos": [{"video_id", "split"}, ...], "sentences": [...]} with sentences as in `load`.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file, key or caption is missing or malformed, if an id is not a plain file name, or if
        no video of the split has a file.
    """
    path, files = folder("annotations", annotations) / captions, VideoFiles(videos)
    lists, data = Lists(train_list, val_list, num_val_videos, galleries), read_json(path)
    ids = lists.ids(split, lambda name: _ids_of_split(path, data, name))
    records = _captions(path, _list(path, data, "sentences"), ids, None, files)
    files.check(records)
    return Split(split, tuple(records))


def _ids(path: pathlib.Path) -> Sequence[str]:
    return distinct(path, (row["video_id"] for _, row in read_csv(path, ("video_id",))))


def _ids_of_split(path: pathlib.Path, data: Any, name: str) -> Sequence[str]:
    """Returns the videos that the caption file assigns to a split."""
    ids = []
    for number, video in enumerate(_list(path, data, "videos")):
        match video:
            case {"video_id": str(video_id), "split": str(split)}:
                if split.strip() == name:
                    ids.append(video_id)
            case _:
                source, wanted = f"{path}, videos[{number}]", "video_id and split (text)"
                raise DataError(source, shown(video), wanted, "correct the file")
    return distinct(path, ids)


def _gallery(path: pathlib.Path, files: VideoFiles) -> list[Record]:
    return [
        _record(row["video_id"], row["sentence"], f"{path}, line {line}", files, row.get("group") or None)
        for line, row in read_csv(path, ("video_id", "sentence"))
    ]


def _captions(
    path: pathlib.Path, sentences: Sequence[Any], ids: Iterable[str], limit: int | None, files: VideoFiles
) -> list[Record]:
    """Returns the first `limit` captions (by sen_id) of each video, in the order of `ids`."""
    if limit is not None and limit < 1:
        raise DataError("max_captions_per_video", str(limit), "at least 1, or None for all", "raise it")
    captions: dict[str, list[tuple[int, str]]] = {video_id: [] for video_id in ids}
    for number, sentence in enumerate(sentences):
        match sentence:
            case {"caption": str(caption), "video_id": str(video_id), "sen_id": int(sen_id)}:
                if (video_id := compared(video_id)) in captions:
                    captions[video_id].append((sen_id, caption))
            case _:
                wanted = "caption and video_id (text) and sen_id (a whole number)"
                raise DataError(f"{path}, sentences[{number}]", shown(sentence), wanted, "correct the file")
    for video_id, found in captions.items():
        if not found:
            raise DataError(f"{path}, {video_id!r}", "no caption", "at least one", "add one or unlist the video")
    return [
        _record(video_id, caption, f"{path}, sen_id {sen_id}", files)
        for video_id, found in captions.items()
        for sen_id, caption in sorted(found)[:limit]
    ]


def _list(path: pathlib.Path, data: Any, key: str) -> Sequence[Any]:
    """Returns the list stored under a key of the caption file."""
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list):
        got = f"the keys {shown(sorted(data))}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise DataError(f"{path}", got, f'an object with a list "{key}"', "check that it is the caption file")
    return found


def _record(video_id: str, text: str, source: str, files: VideoFiles, group: str | None = None) -> Record:
    return Record(text=text, video_id=video_id, path=files.find(video_id, source), group=group, source=source)
