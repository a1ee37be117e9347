"""ActivityNet Captions: one paragraph per video. Video lists and sentences are JSON; each id has one video file."""

import math
import pathlib
from collections.abc import Mapping, Sequence

from hbi_jax.data.datasets.readers import folder, read_json, shown
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists, distinct
from hbi_jax.data.datasets.videos import VideoFiles
from hbi_jax.data.names import compared

GALLERIES: Mapping[str, str] = {"test": "val_ids.json"}

# Prefix of every id. Some copies of the videos have it in their file names, others do not.
_PREFIX = "v_"
# In seconds. A longer duration is damaged or in another unit.
_LONGEST = 1e6


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train_ids.json",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
    train_captions: str = "train.json",
    captions: str = "val_1.json",
) -> Split:
    """Returns one split: one record per video, in list order.

    The text joins the video's sentences. The clip runs from 0 to the duration, rounded up to a full second. `val`
    contains the videos of `val_list` or, without one, the last `num_val_videos` of the train list; `train` contains
    the remaining videos of the train list. Any other split is a gallery. (The published code validates on the test
    videos.)

    Args:
      annotations: Folder of the lists and captions.
      videos: Folder of the video files, `v_<id>` or `<id>` with one of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: JSON file with a list of ids.
      val_list: JSON file with a list of ids; empty for none.
      num_val_videos: Number of videos to hold out from the end of the train list if `val_list` is empty.
      galleries: JSON file of each gallery, with a list of ids.
      train_captions: JSON file {id: {"duration", "sentences"}} for the videos of the train list.
      captions: JSON file in the same format for the videos of all other lists.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file, key or caption is missing or malformed, if an id is not a plain file name, or
        if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos, _PREFIX)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    ids = lists.ids(split, lambda name: _ids(annotations / name))
    trained = split in ("train", "val") and lists.name(split) == train_list
    records = _paragraphs(annotations / (train_captions if trained else captions), ids, files)
    files.check(records)
    return Split(split, tuple(records))


def _ids(path: pathlib.Path) -> Sequence[str]:
    ids = read_json(path)
    if not isinstance(ids, list):
        raise DataError(f"{path}", f"a {type(ids).__name__}", "a list of ids", "check that it is the list of videos")
    for number, video_id in enumerate(ids):
        if not isinstance(video_id, str):
            raise DataError(f"{path}, [{number}]", shown(video_id), "an id (text)", "correct the list")
    return distinct(path, ids)


def _paragraphs(path: pathlib.Path, ids: Sequence[str], files: VideoFiles) -> list[Record]:
    captions = read_json(path)
    if not isinstance(captions, dict):
        got, remedy = f"a {type(captions).__name__}", "check that it is the caption file"
        raise DataError(f"{path}", got, "an object with a key for each video", remedy)
    captions = {compared(video_id): entry for video_id, entry in captions.items()}
    records = []
    for video_id in ids:
        source = f"{path}, {video_id!r}"
        if video_id not in captions:
            raise DataError(source, "no captions", "some for each listed video", "add them or unlist the video")
        match captions[video_id]:
            case {"duration": duration, "sentences": [*sentences]} if (
                type(duration) in (int, float)
                and 0 < duration <= _LONGEST
                and all(isinstance(sentence, str) for sentence in sentences)
            ):
                text, file, end = " ".join(sentences), files.find(video_id, source), math.ceil(duration)
                records.append(Record(text, video_id, file, start=0, end=end, source=source))
            case entry:
                wanted = f"duration (above 0 to {_LONGEST:.0f} s) and sentences (a list of text)"
                raise DataError(source, shown(entry), wanted, "correct the file")
    return records
