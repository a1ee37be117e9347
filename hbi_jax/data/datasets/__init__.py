"""Data sets, by name: each reads its own annotation layout and gives a `Split`."""

from collections.abc import Callable, Mapping
from typing import Any

from hbi_jax.data.datasets import activitynet, msrvtt, msrvtt_qa
from hbi_jax.data.datasets.records import DataError, Record, Split

__all__ = ["GALLERIES", "LOADERS", "DataError", "Record", "Split", "load_split"]

LOADERS: Mapping[str, Callable[..., Split]] = {
    "activitynet": activitynet.load,
    "msrvtt": msrvtt.load,
    "msrvtt_qa": msrvtt_qa.load,
}

# The galleries that each data set has of its own: name -> file.
GALLERIES: Mapping[str, Mapping[str, str]] = {
    "activitynet": activitynet.GALLERIES,
    "msrvtt": msrvtt.GALLERIES,
    "msrvtt_qa": msrvtt_qa.GALLERIES,
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
