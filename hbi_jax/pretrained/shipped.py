"""Weights that ship with the package, each as one small file in half precision.

Of a CLIP's table of tokens, a file holds only the rows that were trained. The others are drawn from a seed, with the
standard deviation of the trained ones. With that of a fresh table, a sixth of it, their positions would drown them.
"""

import importlib.resources
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from hbi_jax.pretrained.tensors import Entry

# The names by which they are loaded.
SHIPPED = ("shapes-clip",)

_TABLE = "params/text_tower/token_embedding/embedding"
_ROWS = "token_rows"
# Seed of the rows that are not in the file.
_SEED = 0


def shipped_file(name: str) -> pathlib.Path:
    """Returns the file of shipped weights; `python -m hbi_jax.data.shapes.pretrain` writes that of `shapes-clip`."""
    return pathlib.Path(str(importlib.resources.files("hbi_jax.pretrained"))) / "assets" / f"{name}.safetensors"


def is_shipped(folder: str | os.PathLike) -> bool:
    """Returns whether this is the name of shipped weights; a folder of that name is given as `./shapes-clip`."""
    return os.fspath(folder) in SHIPPED


def compress(entries: Mapping[str, Entry], rows: Int[np.ndarray, " n"]) -> dict[str, Entry]:
    """Returns the entries of a file of shipped weights.

    Args:
      entries: The entries of a folder of weights whose table of tokens has only the trained rows.
      rows: CLIP's ids of these tokens, in order.
    """

    def half(entry: Entry) -> Entry:
        return Entry(entry.shape, np.dtype(np.float16), lambda: np.asarray(entry.read()).astype(np.float16))

    rows = np.asarray(rows, np.int32)
    return {name: half(entry) for name, entry in entries.items()} | {_ROWS: Entry(rows.shape, rows.dtype, lambda: rows)}


def expand(entries: Mapping[str, Entry], vocab_size: int) -> dict[str, Entry]:
    """Returns the entries of a folder of weights, in float32, from those of a file of shipped weights."""
    rows = entries[_ROWS]

    def single(name: str, entry: Entry) -> Entry:
        shape = (vocab_size, *entry.shape[1:]) if name == _TABLE else entry.shape

        def read() -> np.ndarray:
            array = entry.read().astype(np.float32)
            if name != _TABLE:
                return array
            table = np.random.default_rng(_SEED).normal(0, array.std(), shape).astype(np.float32)
            table[rows.read()] = array
            return table

        return Entry(shape, np.dtype(np.float32), read)

    return {name: single(name, entry) for name, entry in entries.items() if name != _ROWS}
