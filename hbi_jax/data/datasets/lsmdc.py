"""LSMDC: a tab-separated table of clips and sentences per split, and one video file per clip in its movie's folder."""

import pathlib
from collections.abc import Collection, Mapping

from hbi_jax.data.datasets.readers import folder, read_lines
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.datasets.splits import Lists
from hbi_jax.data.datasets.videos import VideoFiles
from hbi_jax.data.names import compared

GALLERIES: Mapping[str, str] = {"test": "LSMDC16_challenge_1000_publictect.csv"}

# Clips that are damaged as distributed; published results exclude them.
DAMAGED = (
    "0017_Pianist_00.23.28.872-00.23.34.843",
    "0017_Pianist_00.30.36.767-00.30.38.009",
    "3064_SPARKLE_2012_01.41.07.000-01.41.11.793",
)
# The clip id; its start and end in the movie, as aligned and as cut; the sentence.
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
    """Returns one split: one record per line. The times are unused because the clips are distributed already cut.

    Args:
      annotations: Folder of the tables.
      videos: Folder of the video files, `<movie>/<clip>.avi`; any subfolders and any of `videos.EXTENSIONS`.
      split: "train", "val" or a key of `galleries`.
      train_list: Table of the training clips, without a header line.
      val_list: Table of the validation clips, LSMDC16_annos_val.csv as distributed; empty for none.
      num_val_videos: Number of clips to hold out from the end of the train list if `val_list` is empty.
      galleries: Table of each gallery.
      damaged: Clips to exclude.

    Returns:
      The split, including clips without a file (with the path at which the file was expected).

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
    """Returns clip, sentence and source (file and line) of each row."""
    rows = []
    for number, line in read_lines(path):
        source, columns = f"{path}, line {number}", line.split("\t")
        if len(columns) != _NUM_COLUMNS:
            wanted = f"{_NUM_COLUMNS}: the clip, four times, the sentence"
            raise DataError(source, f"{len(columns)} columns (tab-separated)", wanted, "correct the line")
        rows.append((compared(columns[0]), columns[-1], source))
    return rows
