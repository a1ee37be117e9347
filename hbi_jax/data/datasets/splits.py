"""Which videos a split has, for data sets that list them: training, held-out validation, galleries."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from hbi_jax.data.datasets.records import DataError
from hbi_jax.data.names import compared

# Reads the ids of a list of videos, given its name.
ReadIds = Callable[[str], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of videos that the splits of a data set are made of.

    `train` has the videos of the train list that `val` does not take, `val` those of `val_list`, or else the last
    `num_val_videos` of the train list; any other split is a gallery with a list of its own.

    Attributes:
      train_list: Name of the train list.
      val_list: Name of the validation list; empty for none.
      num_val_videos: How many videos of the train list are for validation where there is no `val_list`.
      galleries: Name of the list of each gallery.
    """

    train_list: str
    val_list: str
    num_val_videos: int
    galleries: Mapping[str, str]

    def name(self, split: str) -> str:
        """The list that the videos of a split are taken from.

        Raises:
          DataError: If there is no such split.
        """
        if split == "train" or (split == "val" and not self.val_list):
            return self.train_list
        return self.val_list if split == "val" else gallery_file(split, self.galleries)

    def ids(self, split: str, read_ids: ReadIds) -> Sequence[str]:
        """The videos of a split.

        Raises:
          DataError: If there is no such split, or if `num_val_videos`, where it is needed, leaves nothing for
            validation or for training.
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
    """The file of a gallery.

    Raises:
      DataError: If there is no such gallery.
    """
    if split not in galleries:
        choices = ", ".join(["train", "val", *galleries])
        raise DataError("split", repr(split), f"one of {choices}", "correct the name or add it to galleries")
    return galleries[split]


def distinct(path: pathlib.Path, ids: Iterable[str]) -> Sequence[str]:
    """The ids of a list of videos, in which each may stand once, as they are compared (`names.compared`).

    Raises:
      DataError: If one stands there more often.
    """
    counts = collections.Counter(map(compared, ids))
    for video_id, count in counts.items():
        if count > 1:
            raise DataError(f"{path}", f"{video_id!r} {count} times", "each video once", "remove the repetition")
    return list(counts)
