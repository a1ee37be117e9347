"""Named tensors that are read one at a time, and safetensors files of them."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hbi_jax.commands.progress import Progress
from hbi_jax.pretrained.errors import PretrainedError


class Entry(NamedTuple):
    """A tensor that has not been read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Entry]:
    """Returns entries for arrays in memory."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    return {name: Entry(array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()}


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Returns the tensors of a file and its metadata.

    Raises:
      PretrainedError: If the file is not a valid safetensors file, or a tensor has an unsupported type.
    """
    import safetensors

    try:
        # Read the file instead of mapping it: mapped pages would count as memory in addition to the arrays.
        file = safetensors.safe_open(path, "numpy", backend="pread")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise PretrainedError(
            f"{path} is no safetensors file, or a damaged one ({error}); copy or download it again"
        ) from error
    entries = {}
    for name, part in slices.items():
        if part.get_dtype() not in _DTYPES:
            raise PretrainedError(
                f"{path}: {name} has the type {part.get_dtype()}, wanted one of {', '.join(_DTYPES)}; "
                "save it as one of these"
            )
        dtype = np.dtype(_DTYPES[part.get_dtype()])
        entries[name] = Entry(tuple(part.get_shape()), dtype, lambda name=name: file.get_tensor(name))
    return entries, file.metadata() or {}


def write_safetensors(
    path: pathlib.Path, entries: Mapping[str, Entry], metadata: Mapping[str, str], progress: bool
) -> None:
    """Writes tensors one after the other, with at most one of them in memory.

    Args:
      path: A new file.
      entries: The tensors to write, in little-endian order.
      metadata: Metadata for the header.
      progress: Whether to show progress on standard error.
    """
    codes = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
    # Put wide types first, so that the offset of each tensor is a multiple of its item size.
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    header, end = {"__metadata__": dict(metadata)}, 0
    for name in order:
        shape, dtype, _ = entries[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file, Progress(len(order), f"write {path.name}", shown=progress) as bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            dtype = entries[name].dtype.newbyteorder("<")
            file.write(np.ascontiguousarray(entries[name].read(), dtype).reshape(-1).view(np.uint8))
            bar.update()
        file.flush()
        os.fsync(file.fileno())
