"""Which videos a split has, for data sets that list them: training, held-out validation, galleries."""

import collections
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from hbi_jax.data.datasets.records import DataError

# Reads the ids of a list of videos, given its name.
ReadIds = Callable[[str], Sequence[str]]


def train_ids(read_ids: ReadIds, train_list: str, val_list: str, num_val_videos: int) -> Sequence[str]:
    """The videos of the train list that validation does not take.

    Raises:
      DataError: As `val_ids`, if anything is held out.
    """
    ids = read_ids(train_list)
    if not val_list and num_val_videos == 0:
        return ids
    taken = set(val_ids(read_ids, train_list, val_list, num_val_videos))
    return [video_id for video_id in ids if video_id not in taken]


def val_ids(read_ids: ReadIds, train_list: str, val_list: str, num_val_videos: int) -> Sequence[str]:
    """The videos of `val_list` or else the last `num_val_videos` of the train list.

    Raises:
      DataError: If there is no `val_list`, and the number leaves nothing for validation or for training.
    """
    if val_list:
        return read_ids(val_list)
    ids = read_ids(train_list)
    if not 0 < num_val_videos < len(ids):
        wanted = f"a val_list, or a number below the {len(ids)} videos of {train_list}"
        raise DataError("num_val_videos", str(num_val_videos), wanted, "set one of them")
    return ids[-num_val_videos:]


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
    """The ids of a list of videos, in which each may stand once.

    Raises:
      DataError: If one stands there more often.
    """
    counts = collections.Counter(ids)
    for video_id, count in counts.items():
        if count > 1:
            raise DataError(f"{path}", f"{video_id!r} {count} times", "each video once", "remove the repetition")
    return list(counts)
