"""Selects the videos of a split for data sets with video lists: training, held-out validation and galleries."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from hbi_jax.data.datasets.records import DataError
from hbi_jax.data.names import compared

# Returns the ids in a list of videos, given the list's name.
ReadIds = Callable[[str], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Lists:
    """The video lists that define the splits of a data set.

    `val` contains the videos of `val_list` or, without one, the last `num_val_videos` of the train list. `train`
    contains the remaining videos of the train list. Any other split is a gallery with a list of its own.

    Attributes:
      train_list: Name of the train list.
      val_list: Name of the validation list; empty for none.
      num_val_videos: Number of videos to hold out from the end of the train list if `val_list` is empty.
      galleries: Name of the list of each gallery.
    """

    train_list: str
    val_list: str
    num_val_videos: int
    galleries: Mapping[str, str]

    def name(self, split: str) -> str:
        """Returns the name of the list that a split is taken from.

        Raises:
          DataError: If the split is unknown.
        """
        if split == "train" or (split == "val" and not self.val_list):
            return self.train_list
        return self.val_list if split == "val" else gallery_file(split, self.galleries)

    def ids(self, split: str, read_ids: ReadIds) -> Sequence[str]:
        """Returns the video ids of a split.

        Raises:
          DataError: If the split is unknown, or if `num_val_videos` is needed but leaves no videos for validation or
            training.
        """
        ids = read_ids(self.name(split))
        if split == "train" and (self.val_list or self.num_val_videos):
            taken = set(self.ids("val", read_ids))
            return [video_id for video_id in ids if video_id not in taken]
        if split == "val" and not self.val_list:
            if not 0 < self.num_val_videos < len(ids):
                wanted = f"a val_list, or a number below the {len(ids)} videos of {self.train_list}"
                raise DataError("num_val_videos", str(self.num_val_videos), wanted, "set one of them")
            return ids[-self.num_val_videos :]
        return ids


def gallery_file(split: str, galleries: Mapping[str, str]) -> str:
    """Returns the file of a gallery.

    Raises:
      DataError: If the gallery is unknown.
    """
    if split not in galleries:
        choices = ", ".join(["train", "val", *galleries])
        raise DataError("split", repr(split), f"one of {choices}", "correct the name or add it to galleries")
    return galleries[split]


def distinct(path: pathlib.Path, ids: Iterable[str]) -> Sequence[str]:
    """Returns the ids of a list of videos, normalised by `names.compared`.

    Raises:
      DataError: If an id occurs more than once.
    """
    counts = collections.Counter(map(compared, ids))
    for video_id, count in counts.items():
        if count > 1:
            raise DataError(f"{path}", f"{video_id!r} {count} times", "each video once", "remove the repetition")
    return list(counts)
