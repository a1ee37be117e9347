"""LSMDC: a table of clips and sentences a split (tab-separated), one video file a clip in the folder of its movie."""

import pathlib
from collections.abc import Collection, Mapping

from hbi_jax.data.datasets.readers import folder, read_lines
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles
from hbi_jax.data.names import compared

GALLERIES: Mapping[str, str] = {"test": "LSMDC16_challenge_1000_publictect.csv"}

# Clips that are damaged as distributed, and that published results leave out.
DAMAGED = (
    "0017_Pianist_00.23.28.872-00.23.34.843",
    "0017_Pianist_00.30.36.767-00.30.38.009",
    "3064_SPARKLE_2012_01.41.07.000-01.41.11.793",
)
# The clip's id, its begin and end in the movie, aligned and as it was cut, and the sentence.
_NUM_COLUMNS = 6


def load(
    annotations: str | pathlib.Path,
    videos: str | pathlib.Path,
    split: str,
    *,
    train_list: str = "LSMDC16_annos_training.csv",
    val_list: str = "",
    num_val_videos: int = 0,
    galleries: Mapping[str, str] = GALLERIES,
    damaged: Collection[str] = DAMAGED,
) -> Split:
    """Reads one split: a record a line. The times are not needed, because the clips come cut.

    Args:
      annotations: Folder of the tables.
      videos: Folder of the video files, `<movie>/<clip>.avi` or any other folders, and any of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: Table of the training clips, without a line of names.
      val_list: The same for validation, LSMDC16_annos_val.csv as distributed; empty for none.
      num_val_videos: How many clips of the train list are for validation where there is no `val_list`.
      galleries: The same for each gallery.
      damaged: Clips to leave out.

    Returns:
      The split. Clips without a file are in it, with the path where the file was expected.

    Raises:
      DataError: If a folder, file or line is missing or malformed, if an id is not a plain file name, or if no clip
        of the split has a file.
    """
    annotations, files = folder("annotations", annotations), VideoFiles(videos, recursive=True)
    lists = Lists(train_list, val_list, num_val_videos, galleries)
    kept = set(lists.ids(split, lambda name: list(dict.fromkeys(clip for clip, *_ in _rows(annotations / name)))))
    records = [
        Record(sentence, clip, files.find(clip, source), source=source)
        for clip, sentence, source in _rows(annotations / lists.name(split))
        if clip in kept and clip not in damaged
    ]
    files.check(records)
    return Split(split, tuple(records))


def _rows(path: pathlib.Path) -> list[tuple[str, str, str]]:
    """Clip, sentence, file and line of each row."""
    rows = []
    for number, line in read_lines(path):
        source, columns = f"{path}, line {number}", line.split("\t")
        if len(columns) != _NUM_COLUMNS:
            wanted = f"{_NUM_COLUMNS}: the clip, four times, the sentence"
            raise DataError(source, f"{len(columns)} columns (tab-separated)", wanted, "correct the line")
        rows.append((compared(columns[0]), columns[-1], source))
    return rows
