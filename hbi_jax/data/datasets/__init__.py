"""The data sets by name. Each loader reads its own annotation layout and returns a `Split`."""

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

# The default galleries of each data set: gallery name -> file.
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
    """Returns one split of a data set.

    Args:
      dataset: A key of `LOADERS`.
      split: Name of the split. The valid names depend on the data set.
      **options: Arguments of the data set's own `load`: folders, lists, limits. An empty value ("" or {}) selects
        the data set's default.

    Returns:
      The split's records.

    Raises:
      DataError: If the data set is unknown, or its loader finds an error.
    """
    if dataset not in LOADERS:
        raise DataError("dataset", repr(dataset), f"one of {', '.join(sorted(LOADERS))}", "correct the name")
    given = {name: value for name, value in options.items() if value not in ("", {})}
    return LOADERS[dataset](split=split, **given)
