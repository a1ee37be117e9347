"""Sources of foreign weights: files and folders in several formats, distinguished by their contents."""

import contextlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hbi_jax.pretrained.errors import PretrainedError, listed
from hbi_jax.pretrained.folder import exists, is_converted, local, read_json, refuse_run
from hbi_jax.pretrained.names import CONFIG, OPEN_CLIP, PREPROCESSOR, PUBLISHED, WEIGHTS
from hbi_jax.pretrained.tensors import Entry, read_safetensors
from hbi_jax.pretrained.torch_archive import read_wrapped

# Names of weight files in order of preference. Hugging Face's may be split into shards with an index, and may have a
# variant in their name: model.fp16.safetensors, model.safetensors.index.fp16.json.
_TORCH_WEIGHTS = "pytorch_model.bin"
_HUGGING_FACE = (WEIGHTS, _TORCH_WEIGHTS)
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SHARD = re.compile(r"-\d+-of-\d+\.")
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
_CONFIGS = (CONFIG, PREPROCESSOR, OPEN_CLIP)


class Source(NamedTuple):
    """Foreign weights.

    Attributes:
      where: The path or hub id, for messages.
      entries: The tensors by their name in the source.
      config: The content of a Hugging Face `config.json` beside the weights; empty if there is none.
      metadata: The metadata of a safetensors file.
      preprocessor, open_clip: The contents of a `preprocessor_config.json` and of an `open_clip_config.json` beside the
        weights; empty if there are none.
      notes: Descriptions of the file that was chosen and of the keys that wrapped the state dict.
    """

    where: str
    entries: dict[str, Entry]
    config: Mapping[str, Any]
    metadata: Mapping[str, str]
    preprocessor: Mapping[str, Any] = {}
    open_clip: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


class _Tensors(NamedTuple):
    entries: dict[str, Entry]
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()


def open_source(source: str | os.PathLike) -> Source:
    """Opens a file of weights, a folder, or a model on the Hugging Face hub.

    Raises:
      PretrainedError: If the source is none of these or cannot be read.
    """
    path = local(source)
    if not exists(path):
        path = _download(str(source))
    if path.is_dir() and exists(path / PUBLISHED):
        path = path / PUBLISHED
    if not path.is_dir():
        tensors = _index(path) if _is_index(path) else _file(path)
        configs = _configs_beside(path)
    else:
        refuse_run(path)
        configs = {name: _read(path / name) for name in _CONFIGS}
        if not configs[OPEN_CLIP]:
            configs[CONFIG] = read_json(path / CONFIG)
        if is_converted(configs[CONFIG]):
            raise PretrainedError(f"{source} is converted already; open it with hbi_jax.load({str(source)!r})")
        weights, notes = _weights(path)
        tensors = _index(weights) if _is_index(weights) else _file(weights)
        tensors = tensors._replace(notes=notes + tensors.notes)
    return Source(
        str(source),
        tensors.entries,
        configs[CONFIG],
        tensors.metadata,
        configs[PREPROCESSOR],
        configs[OPEN_CLIP],
        tensors.notes,
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file, or an empty one if there is no file."""
    return read_json(path) if exists(path) else {}


def _configs_beside(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the contents of the configuration files beside a file of weights."""
    configs = {CONFIG: {}, PREPROCESSOR: {}, OPEN_CLIP: _read(path.with_name(OPEN_CLIP))}
    # A config.json may belong to another program; this must not prevent reading the weights.
    with contextlib.suppress(PretrainedError):
        config = _read(path.with_name(CONFIG))
        if {"text_config", "vision_config"} <= set(config):
            configs |= {CONFIG: config, PREPROCESSOR: _read(path.with_name(PREPROCESSOR))}
    return configs


def _weights(folder: pathlib.Path) -> tuple[pathlib.Path, tuple[str, ...]]:
    """Returns the file of a folder's weights, or its index, with notes on the choice."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    named = (*_HUGGING_FACE, *_OPEN_CLIP) if CONFIG in files else (*_OPEN_CLIP, *_HUGGING_FACE)
    for name in named:
        for candidate in (name, f"{name}.index.json"):
            if candidate in files:
                return folder / candidate, ()
    variants = [found for name in named for found in _variants(name, files)]
    others = [file for file in files if file.endswith(_ENDINGS) and not _SHARD.search(file)]
    alone = others if OPEN_CLIP in files else []
    for found in (variants, alone):
        if len(found) == 1:
            return folder / found[0], (f"weights of {found[0]}",)
    if len(variants) > 1 or len(alone) > 1:
        raise PretrainedError(
            f"{folder} holds {listed(variants or alone)}: wanted one of them; name it, for instance "
            f"{folder / (variants or alone)[0]}"
        )
    if shards := [file for file in files if _SHARD.search(file)]:
        raise PretrainedError(
            f"{folder} holds shards such as {shards[0]} but no index, such as {WEIGHTS}.index.json; download it too"
        )
    raise PretrainedError(
        f"{folder} has neither {' nor '.join(named)}, whole, in shards or as a variant; "
        + (f"is it {listed(others, ' or ', most=3)}? Name the file itself" if others else "download them")
    )


def _variants(name: str, files: Sequence[str]) -> list[str]:
    """Returns the files of weights or indices whose name contains a variant."""
    stem, _, ending = name.rpartition(".")
    whole = re.compile(rf"{re.escape(stem)}\.[\w-]+\.{ending}")
    index = re.compile(rf"{re.escape(name)}\.index\.[\w-]+\.json")
    return [file for file in files if (whole.fullmatch(file) or index.fullmatch(file)) and not _SHARD.search(file)]


def _is_index(path: pathlib.Path) -> bool:
    return path.suffix == ".json" and ".index." in path.name


def _index(path: pathlib.Path) -> _Tensors:
    """Returns the tensors of all shards that an index names."""
    table = read_json(path).get("weight_map")
    good = isinstance(table, dict) and table and all(isinstance(file, str) for file in table.values())
    # The index is untrusted: it may only name files in its own folder.
    if not good or any(file != os.path.basename(file) or file in ("", ".", "..") for file in table.values()):
        raise PretrainedError(f"{path}: weight_map names no files beside it, tensor by tensor; download it again")
    files = sorted(set(table.values()))
    if missing := [file for file in files if not exists(path.parent / file)]:
        raise PretrainedError(f"{path.parent} lacks {listed(missing, most=5)}, named in {path.name}; download the rest")
    shards = {file: _file(path.parent / file).entries for file in files}
    if absent := sorted(name for name, file in table.items() if name not in shards[file]):
        raise PretrainedError(
            f"{path.parent}: {absent[0]} is not in {table[absent[0]]}, where {path.name} has it; download both again"
        )
    # Keep tensors that the index does not list, so that unknown ones are reported.
    entries = {name: entry for shard in shards.values() for name, entry in shard.items()}
    entries |= {name: shards[file][name] for name, file in table.items()}
    return _Tensors(entries, {}, (f"{len(files)} shards by {path.name}",))


def _file(path: pathlib.Path) -> _Tensors:
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise PretrainedError(f"{path} cannot be read ({error}); correct the path") from error
    if start.startswith(b"PK"):
        entries, keys = read_wrapped(path)
        under = " in ".join(map(repr, reversed(keys)))
        return _Tensors(entries, {}, (f"unwrapped: the state dict under {under}",) if keys else ())
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _Tensors(*read_safetensors(path))
    if start.startswith(b"\x80"):
        raise PretrainedError(
            f"{path} is a bare pickle, as torch wrote before version 1.6; if torch is installed and you trust the "
            "file, save it again: torch.save(torch.load(path, map_location='cpu', weights_only=False), new_path)"
        )
    what = "a web page" if start.lstrip().startswith(b"<") else "neither a torch archive nor a safetensors file"
    raise PretrainedError(f"{path} is {what}, wanted weights; download it again")


def _download(name: str) -> pathlib.Path:
    """Returns the folder of a hub model in the hub's cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise PretrainedError(f"{name}: there is no such file or folder; correct the path")
    import huggingface_hub

    # File patterns to try in order until the download contains weights.
    wanted = (
        [WEIGHTS, "model-*.safetensors"],
        [_TORCH_WEIGHTS, "pytorch_model-*.bin"],
        *([file] for file in _OPEN_CLIP),
        ["model.*.safetensors", "pytorch_model.*.bin"],
    )
    folder = pathlib.Path()
    try:
        for patterns in wanted:
            patterns = [*_CONFIGS, "*.index.json", "*.index.*.json", *patterns]
            folder = pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
            if any(path.name.endswith(_ENDINGS) for path in folder.iterdir()):
                break
    # The hub's client passes on exceptions of many types from its transport; each means that the download failed.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PretrainedError(
            f"{name}: there is no such file or folder here, and as a Hugging Face model it could not be downloaded "
            f"({reason[0]}); correct the name, or download it elsewhere and give its folder"
        ) from error
    return folder
