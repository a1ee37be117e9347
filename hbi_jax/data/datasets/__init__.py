"""Data sets, by name: each reads its own annotation layout and gives a `Split`."""

from collections.abc import Callable, Mapping
from typing import Any

from hbi_jax.data.datasets import activitynet, activitynet_qa, didemo, folder, lsmdc, msrvtt, msrvtt_qa, msvd, msvd_qa
from hbi_jax.data.datasets.records import DataError, Record, Split

__all__ = ["GALLERIES", "LOADERS", "DataError", "Record", "Split", "load_split"]

LOADERS: Mapping[str, Callable[..., Split]] = {
    "activitynet": activitynet.load,
    "activitynet_qa": activitynet_qa.load,
    "didemo": didemo.load,
    "folder": folder.load,
    "lsmdc": lsmdc.load,
    "msrvtt": msrvtt.load,
    "msrvtt_caption": msrvtt.load_captioning,
    "msrvtt_qa": msrvtt_qa.load,
    "msvd": msvd.load,
    "msvd_qa": msvd_qa.load,
}

# The galleries that each data set has of its own: name -> file.
GALLERIES: Mapping[str, Mapping[str, str]] = {
    "activitynet": activitynet.GALLERIES,
    "activitynet_qa": activitynet_qa.GALLERIES,
    "didemo": didemo.GALLERIES,
    "folder": folder.GALLERIES,
    "lsmdc": lsmdc.GALLERIES,
    "msrvtt": msrvtt.GALLERIES,
    "msrvtt_caption": msrvtt.CAPTION_GALLERIES,
    "msrvtt_qa": msrvtt_qa.GALLERIES,
    "msvd": msvd.GALLERIES,
    "msvd_qa": msvd_qa.GALLERIES,
}


def load_split(dataset: str, split: str, **options: Any) -> Split:
    """Reads one split of a data set.

    Args:
      dataset: A key of `LOADERS`.
      split: The split's name; which there are depends on the data set.
      **options: What the data set's own `load` takes: folders, lists, limits. An empty one ("" or {}) is left to
        the data set: it has its own names of files.

    Returns:
      The split's records.

    Raises:
      DataError: If there is no such data set, or its loader finds something wrong.
    """
    if dataset not in LOADERS:
        raise DataError("dataset", repr(dataset), f"one of {', '.join(sorted(LOADERS))}", "correct the name")
    given = {name: value for name, value in options.items() if value not in ("", {})}
    return LOADERS[dataset](split=split, **given)
