"""Where foreign weights come from: files and folders of several makes, told apart by what is in them."""

import os
import pathlib
import re
from typing import Any, NamedTuple

from hbi_jax.pretrained.errors import PretrainedError
from hbi_jax.pretrained.folder import CONFIG, PUBLISHED, WEIGHTS, exists, is_converted, local, read_json, refuse_run
from hbi_jax.pretrained.tensors import Entry, read_safetensors
from hbi_jax.pretrained.torch_archive import read_archive

_TORCH_WEIGHTS = "pytorch_model.bin"


class Source(NamedTuple):
    """Foreign weights.

    Attributes:
      where: The path or id, for messages.
      entries: The tensors by their name there.
      config: A Hugging Face folder's `config.json`; nothing elsewhere.
      metadata: The metadata of a safetensors file.
    """

    where: str
    entries: dict[str, Entry]
    config: dict[str, Any]
    metadata: dict[str, str]


def open_source(source: str | os.PathLike) -> Source:
    """Opens a file of weights, a folder, or a model of the Hugging Face hub.

    Raises:
      PretrainedError: If it is none of them, or cannot be read.
    """
    path = local(source)
    if not exists(path):
        path = _download(str(source))
    if path.is_dir() and exists(path / PUBLISHED):
        path = path / PUBLISHED
    if not path.is_dir():
        return Source(str(source), *_file(path))
    refuse_run(path)
    config = read_json(path / CONFIG)
    if is_converted(config):
        raise PretrainedError(f"{source} is converted already; open it with hbi_jax.load({str(source)!r})")
    weights = next((path / name for name in (WEIGHTS, _TORCH_WEIGHTS) if exists(path / name)), None)
    if weights is None:
        raise PretrainedError(f"{source} has neither {WEIGHTS} nor {_TORCH_WEIGHTS}; download the whole folder again")
    entries, _, metadata = _file(weights)
    return Source(str(source), entries, config, metadata)


def _file(path: pathlib.Path) -> tuple[dict[str, Entry], dict, dict[str, str]]:
    """Entries, no configuration, and metadata."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise PretrainedError(f"{path} cannot be read ({error}); correct the path") from error
    if start.startswith(b"PK"):
        return read_archive(path), {}, {}
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        entries, metadata = read_safetensors(path)
        return entries, {}, metadata
    if start.startswith(b"\x80"):
        raise PretrainedError(
            f"{path} is a bare pickle, as torch wrote before version 1.6; where torch is installed and you trust the "
            "file, save it anew: torch.save(torch.load(path, map_location='cpu', weights_only=False), new_path)"
        )
    what = "a web page" if start.lstrip().startswith(b"<") else "neither a torch archive nor a safetensors file"
    raise PretrainedError(f"{path} is {what}, wanted weights; download it again")


def _download(name: str) -> pathlib.Path:
    """The folder of a model of the hub, in the hub's cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise PretrainedError(f"{name}: there is no such file or folder; correct the path")
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS])
        if not pathlib.Path(folder, WEIGHTS).exists():
            folder = huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG, _TORCH_WEIGHTS])
    # The hub's client lets through what its transport raises, of many types; each means that there is no folder.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PretrainedError(
            f"{name}: there is no such file or folder here, and as a Hugging Face model it could not be downloaded "
            f"({reason[0]}); correct the name, or download it elsewhere and give its folder"
        ) from error
    return pathlib.Path(folder)
