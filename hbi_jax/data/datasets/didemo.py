"""DiDeMo: one paragraph per video. Lists of videos are text, descriptions of moments are JSON; one file per video."""

import pathlib
from collections.abc import Mapping, Sequence

from hbi_jax.data.datasets.readers import folder, read_json, read_lines, shown
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists, distinct
from hbi_jax.data.datasets.videos import VideoFiles, without_extension
from hbi_jax.data.names import compared

GALLERIES: Mapping[str, str] = {"test": "test_list.txt"}

# A list and its descriptions are two files whose names differ only in the suffix.
_LIST, _DATA = "_list.txt", "_data.json"
# In seconds. Annotators described six segments of five seconds; the published code reads one second more.
_END = 31


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train_list.txt",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
) -> Split:
    """Returns one split: one record per video, in list order.

    The text joins the video's descriptions in file order. The clip is the first 31 seconds. Video names in the list,
    in the descriptions and on disk may have different file extensions or none; `video_id` has none.

    Args:
      annotations: Folder of the lists and descriptions.
      videos: Folder of the video files, with any of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: Text file `<name>_list.txt` with one video per line. The descriptions are in `<name>_data.json`, a
        list of objects {"video", "description"}, several per video.
      val_list: The validation list in the same format, val_list.txt as distributed; empty for none.
      num_val_videos: Number of videos to hold out from the end of the train list if `val_list` is empty.
      galleries: The list of each gallery, in the same format.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file or description is missing or malformed, if an id is not a plain file name, or if no
        video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    name = lists.name(split)
    if not name.endswith(_LIST):
        raise DataError("list of videos", repr(name), f"a name ending on {_LIST}", "rename list and descriptions")
    path = annotations / (name.removesuffix(_LIST) + _DATA)
    ids = lists.ids(split, lambda name: _ids(annotations / name))
    descriptions = _descriptions(path, ids)
    records = []
    for video_id, texts in descriptions.items():
        source = f"{path}, {video_id!r}"
        if not texts:
            raise DataError(source, "no description", "at least one", "add one or unlist the video")
        records.append(Record(" ".join(texts), video_id, files.find(video_id, source), 0, _END, source=source))
    files.check(records)
    return Split(split, tuple(records))


def _ids(path: pathlib.Path) -> Sequence[str]:
    return distinct(path, (without_extension(compared(line)) for _, line in read_lines(path)))


def _descriptions(path: pathlib.Path, ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Returns the descriptions of each video in `ids`."""
    entries = read_json(path)
    if not isinstance(entries, list):
        remedy = "check that it is the file of descriptions"
        raise DataError(f"{path}", f"a {type(entries).__name__}", "a list of descriptions", remedy)
    found: dict[str, list[str]] = {video_id: [] for video_id in ids}
    for number, entry in enumerate(entries):
        match entry:
            case {"video": str(video), "description": str(description)}:
                if (video_id := without_extension(compared(video))) in found:
                    found[video_id].append(description)
            case _:
                wanted = "video and description (text)"
                raise DataError(f"{path}, [{number}]", shown(entry), wanted, "correct the file")
    return found
