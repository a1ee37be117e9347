"""Reads torch's files without torch: the zip archives of `torch.save` and of TorchScript.

An archive contains `NAME/data.pkl`, which describes the tensors, and their uncompressed storages `NAME/data/KEY`.
"""

import pathlib
import struct
import zipfile
import zlib

import numpy as np

from hbi_jax.pretrained.errors import PretrainedError
from hbi_jax.pretrained.pickles import Bag, Storage, Tensor, unpickle
from hbi_jax.pretrained.tensors import Entry

# Maximum bytes of a pickle; that of a state dict has a few hundred bytes per tensor.
_MAX_PICKLE = 2**25
_MAX_DEPTH, _MAX_OBJECTS, _MAX_NAME = 64, 10**5, 1000
# Keys under which training scripts store the state dict, besides epoch and optimizer.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def read_archive(path: pathlib.Path) -> dict[str, Entry]:
    """Returns the tensors of an archive by their name in the state dict; they are read from the file on demand.

    Raises:
      PretrainedError: If it is no such archive, is damaged, or asks for code to be run.
    """
    return read_wrapped(path)[0]


def read_wrapped(path: pathlib.Path) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """Returns the tensors as `read_archive` does, and the keys that wrap the state dict, outermost first.

    Raises:
      PretrainedError: If it is no such archive, is damaged, or asks for code to be run.
    """
    try:
        archive = _Archive(path)
        tensors, keys = _state_dict(unpickle(archive.pickle(), archive.storage))
    except PretrainedError as error:
        raise PretrainedError(f"{path}: {error}") from error
    entries = {
        name: Entry(tensor.shape, tensor.storage.dtype, lambda tensor=tensor: archive.read(tensor))
        for name, tensor in tensors.items()
    }
    return entries, keys


class _Archive:
    """The members of one zip file, mapped into memory."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as file:
                self._members = {info.filename: info for info in file.infolist()}
            self._bytes = np.memmap(path, np.uint8, "r")
        # zipfile raises any of these if the directory of an archive is damaged.
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            NotImplementedError,
            struct.error,
            RuntimeError,
            IndexError,
        ) as error:
            raise PretrainedError(f"a damaged or truncated archive ({error}); copy or download it again") from error
        pickles = [name for name in self._members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise PretrainedError("a zip archive, but not one of torch: it has no data.pkl in its folder")
        self._root = pickles[0].removesuffix("data.pkl")
        order = self._members.get(f"{self._root}byteorder")
        if order is not None and bytes(self._member(order.filename)) != b"little":
            raise PretrainedError("it was saved on a big-endian machine; load and save it on a little-endian one")
        self._checked: set[str] = set()

    def _member(self, name: str) -> np.ndarray:
        """Returns the bytes of an uncompressed member."""
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise PretrainedError(
                f"its member {name} is compressed or encrypted, which torch never does; save it again with torch.save"
            )
        header = bytes(self._bytes[info.header_offset : info.header_offset + 30])
        if len(header) == 30 and header.startswith(b"PK\x03\x04"):
            start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
            data = self._bytes[start : start + info.file_size]
            if len(data) == info.file_size:
                return data
        raise PretrainedError(f"its member {name} is cut off; copy or download it again")

    def _sound(self, name: str) -> np.ndarray:
        """Returns the bytes of a member; verifies their checksum the first time."""
        data = self._member(name)
        if name not in self._checked and zlib.crc32(data) != self._members[name].CRC:
            raise PretrainedError(
                f"{self._path}: the bytes of {name} do not fit their checksum: the file is damaged; copy or download "
                "it again"
            )
        self._checked.add(name)
        return data

    def pickle(self) -> bytes:
        """Returns the description of the tensors."""
        name = f"{self._root}data.pkl"
        if self._members[name].file_size > _MAX_PICKLE:
            raise PretrainedError(f"its data.pkl has {self._members[name].file_size} bytes: it is not a state dict")
        return bytes(self._sound(name))

    def storage(self, key: object, dtype: np.dtype, length: object) -> Storage:
        """Returns a storage after checking that it exists with the right size."""
        # Check before formatting any message: a pickle of a few bytes can describe tuples whose text fills the memory.
        if not isinstance(key, str) or type(length) is not int:
            raise PretrainedError("it refers to a storage whose key is no text or whose length is no number")
        name = f"{self._root}data/{key}"
        if name not in self._members:
            raise PretrainedError(f"storage {key} is missing; copy or download the file again")
        size = self._members[name].file_size
        if not 0 <= length * dtype.itemsize <= size:
            raise PretrainedError(f"storage {key} has {size} bytes, wanted {length} numbers of {dtype.itemsize} bytes")
        return Storage(key, dtype, length)

    def read(self, tensor: Tensor) -> np.ndarray:
        """Returns a tensor's numbers as a view of the file."""
        dtype, size = tensor.storage.dtype, tensor.storage.dtype.itemsize
        return np.ndarray(
            tensor.shape,
            dtype.newbyteorder("<"),
            self._sound(f"{self._root}data/{tensor.storage.key}"),
            tensor.offset * size,
            tuple(stride * size for stride in tensor.strides),
        )


def _state_dict(content: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the tensors of a state dict or of a TorchScript archive's modules, and the keys of a wrapping dict."""
    keys: list[str] = []
    for _ in range(_MAX_DEPTH):
        inner = _WRAPPERS if isinstance(content, dict) else ()
        key = next((key for key in inner if isinstance(content.get(key), dict) and content[key]), None)
        if key is None:
            break
        keys.append(key)
        content = content[key]
    tensors: dict[str, Tensor] = {}
    seen = 0

    def walk(value: object, prefix: str, depth: int) -> None:
        nonlocal seen
        attributes = value.attributes if isinstance(value, Bag) else value
        seen += 1 + len(attributes)
        if depth > _MAX_DEPTH or seen > _MAX_OBJECTS or len(prefix) > _MAX_NAME:
            raise PretrainedError("its modules are nested without end")
        for name, part in attributes.items():
            if isinstance(part, Tensor):
                tensors[f"{prefix}{name}"] = part
            elif isinstance(part, Bag):
                walk(part, f"{prefix}{name}.", depth + 1)

    if isinstance(content, dict | Bag):
        walk(content, "", 0)
    if not tensors:
        raise PretrainedError(
            "it holds no state dict; wanted a dictionary of tensors, bare or under one of the keys "
            f"{', '.join(_WRAPPERS)}: torch.save(model.state_dict(), path)"
        )
    return tensors, tuple(keys)
