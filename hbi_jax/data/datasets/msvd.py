"""MSVD: lists of videos (text), a pickle with the captions as lists of words, and one video file per id."""

import pathlib
from collections.abc import Mapping, Sequence

from hbi_jax.data.datasets.plain_pickle import read_plain_pickle
from hbi_jax.data.datasets.readers import folder, read_lines, shown
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists, distinct
from hbi_jax.data.datasets.videos import VideoFiles
from hbi_jax.data.names import compared

GALLERIES: Mapping[str, str] = {"test": "test_list.txt"}


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "train_list.txt",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
    captions: str = "raw-captions.pkl",
) -> Split:
    """Returns one split: one record per caption, with videos in list order and captions in file order.

    Galleries also use every caption as a query, about 40 per video as distributed.

    Args:
      annotations: Folder of the lists and captions.
      videos: Folder of the video files, `<id>.avi` or any other of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: Text file with one id per line.
      val_list: The validation list in the same format, val_list.txt as distributed; empty for none.
      num_val_videos: Number of videos to hold out from the end of the train list if `val_list` is empty.
      galleries: The list of each gallery, in the same format.
      captions: Pickle {id: [[word, ...], ...]}. No code in it is executed.

    Returns:
      The split, including videos without a file (with the path at which the file was expected).

    Raises:
      DataError: If a folder, file or caption is missing or malformed, if the pickle holds anything but lists, dicts
        and text, if an id is not a plain file name, or if no video of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    ids = lists.ids(split, lambda name: _ids(annotations / name))
    records = _captions(annotations / captions, ids, files)
    files.check(records)
    return Split(split, tuple(records))


def _ids(path: pathlib.Path) -> Sequence[str]:
    return distinct(path, (line for _, line in read_lines(path)))


def _captions(path: pathlib.Path, ids: Sequence[str], files: VideoFiles) -> list[Record]:
    captions = read_plain_pickle(path)
    if not isinstance(captions, dict):
        got, remedy = f"a {type(captions).__name__}", "check that it is the caption file"
        raise DataError(f"{path}", got, "a dict with a key for each video", remedy)
    captions = {compared(name) if isinstance(name, str) else name: found for name, found in captions.items()}
    records = []
    for video_id in ids:
        field, found = f"{path}, {video_id!r}", captions.get(video_id)
        if not (isinstance(found, list) and found):
            wanted = "a list of captions for each listed video"
            raise DataError(field, shown(found), wanted, "add them or unlist the video")
        file = files.find(video_id, field)
        for number, words in enumerate(found):
            source = f"{field}, [{number}]"
            if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise DataError(source, shown(words), "a list of words", "correct the file")
            records.append(Record(" ".join(words), video_id, file, source=source))
    return records
