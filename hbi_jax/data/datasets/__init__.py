"""Data sets, by name: each reads its own annotation layout and gives a `Split`."""

from collections.abc import Callable, Mapping
from typing import Any

from hbi_jax.data.datasets import msrvtt
from hbi_jax.data.datasets.records import DataError, Record, Split

__all__ = ["LOADERS", "DataError", "Record", "Split", "load_split"]

LOADERS: Mapping[str, Callable[..., Split]] = {"msrvtt": msrvtt.load}


def load_split(dataset: str, split: str, **options: Any) -> Split:
    """Reads one split of a data set.

    Args:
      dataset: A key of `LOADERS`.
      split: The split's name; which there are depends on the data set.
      **options: What the data set's own `load` takes: folders, lists, limits.

    Returns:
      The split's records.

    Raises:
      DataError: If there is no such data set, or its loader finds something wrong.
    """
    if dataset not in LOADERS:
        raise DataError("dataset", repr(dataset), f"one of {', '.join(sorted(LOADERS))}", "correct the name")
    return LOADERS[dataset](split=split, **options)
