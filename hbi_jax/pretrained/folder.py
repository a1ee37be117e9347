"""The folder format of weights: `model.safetensors`, and a `config.json` that describes them."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Int, PyTree

from hbi_jax.commands.progress import Progress
from hbi_jax.models.config import CLIPConfig
from hbi_jax.pretrained.errors import PretrainedError, listed, naming
from hbi_jax.pretrained.names import CONFIG, PREPROCESSOR, PUBLISHED, WEIGHTS
from hbi_jax.pretrained.shipped import compress, expand, is_shipped, shipped_file
from hbi_jax.pretrained.sizes import build_model, leaves_of, model_config, verify
from hbi_jax.pretrained.tensors import Entry, from_arrays, read_safetensors, write_safetensors

FORMAT = 1
# Prefixes of tensor names: parameters of the model, parameters of the accompanying estimator, and entries that no model
# uses, under their names in the source.
PARAMS, ESTIMATOR, UNUSED = "params/", "estimator/", "unused/"
# Metadata key under which our safetensors files store their description.
METADATA = "hbi_jax"


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """Weights with the kind and configuration of their model.

    Attributes:
      kind: `clip`, `hbi` or `hcmi` (retrieval), `answer`, `caption` or `estimator`.
      config: The fields of `config.model`; of `config.model.clip` for kind `clip`, and of `config.estimator` for kind
        `estimator`.
      params: The model's variables, `{"params": ...}`.
      estimator: The estimator that a published checkpoint contains besides the model.
      unused: Entries of the source that no model uses, by their name there; an export writes them again.
    """

    kind: str
    config: dict
    params: PyTree
    estimator: "Pretrained | None" = None
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The module of the parameters."""
        return build_model(self.kind, self.config)


class Contents(NamedTuple):
    """The contents of a folder, with tensors that have not been read yet.

    Attributes:
      kind, config: As in `Pretrained`.
      origin: A description of where the weights come from.
      entries: The tensors by their name in the folder.
      notes: Descriptions of settings that were read, overridden or assumed, and of prefixes that were removed.
    """

    kind: str
    config: dict
    origin: str
    entries: dict[str, Entry]
    notes: tuple[str, ...] = ()

    def part(self, prefix: str) -> dict[str, Entry]:
        """Returns the entries of `PARAMS`, `ESTIMATOR` or `UNUSED`, without the prefix."""
        return _part(self.entries, prefix)

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of a part."""
        return {name: entry.shape for name, entry in self.part(prefix).items()}

    def estimator_config(self) -> dict:
        """Returns the configuration of the estimator that accompanies the model."""
        return model_config("estimator", self.shapes(ESTIMATOR))


def load(folder: str | os.PathLike, progress: bool = True) -> Pretrained:
    """Loads a folder that `convert` or `save` wrote, or weights that ship with the package.

    Args:
      folder: A folder on this machine, or `shapes-clip`.
      progress: Whether to show progress on standard error.

    Returns:
      The weights, as numpy arrays.

    Raises:
      PretrainedError: If this library did not write the folder, it is damaged, or its weights do not match its
        configuration.
    """
    return materialize(read_folder(folder), f"load {pathlib.Path(folder).name}", progress)


def save(folder: str | os.PathLike, weights: Pretrained, overwrite: bool = False, progress: bool = False) -> None:
    """Writes weights to a folder that `load` reads, completely or not at all.

    Args:
      folder: A new folder.
      weights: The weights to write.
      overwrite: Whether to replace the folder if this library wrote it.
      progress: Whether to show progress on standard error.

    Raises:
      PretrainedError: If parameters and configuration do not match, or the folder exists or cannot be written.
    """
    write_folder(contents_of(weights), folder, overwrite, progress)


def contents_of(weights: Pretrained) -> Contents:
    """Returns the contents of a folder with these weights."""
    arrays = _flatten(PARAMS, weights.params)
    if weights.estimator is not None:
        arrays |= _flatten(ESTIMATOR, weights.estimator.params)
    arrays |= {UNUSED + name: array for name, array in weights.unused.items()}
    contents = Contents(weights.kind, dict(weights.config), "hbi_jax", from_arrays(jax.device_get(arrays)))
    verify(contents.kind, contents.config, contents.shapes(PARAMS), "the weights")
    return contents


def read_folder(folder: str | os.PathLike) -> Contents:
    """Reads the contents of one of our folders, or of weights that ship with the package.

    Raises:
      PretrainedError: If this library did not write the folder, or its weights do not match its configuration.
    """
    if is_shipped(folder):
        return _read_shipped(os.fspath(folder))
    folder = local(folder)
    if exists(folder) and not folder.is_dir():
        raise PretrainedError(
            f"{folder} is a file, wanted a folder that hbi_jax wrote; convert it first: "
            f"python -m hbi_jax.pretrained convert {folder} FOLDER"
        )
    refuse_run(folder)
    about = read_json(folder / CONFIG)
    if not is_converted(about):
        raise PretrainedError(
            f"{folder} is not a folder that hbi_jax wrote: its {CONFIG} names no kind; convert it first: "
            f"python -m hbi_jax.pretrained convert {folder} DESTINATION"
        )
    if about.get("format") != FORMAT:
        raise PretrainedError(
            f"{folder} is of format {about.get('format')!r}, wanted {FORMAT}; convert it again with this version"
        )
    with naming(str(folder)):
        kind, config = described(about)
    entries, _ = read_safetensors(folder / WEIGHTS)
    unknown = sorted(name for name in entries if not name.startswith((PARAMS, ESTIMATOR, UNUSED)))
    if unknown:
        raise PretrainedError(f"{folder} holds {listed(unknown)}, of which nothing is known; convert it again")
    notes = about.get("notes", ())
    notes = tuple(map(str, notes)) if isinstance(notes, list) else ()
    contents = Contents(kind, config, str(about.get("origin", "")), entries, notes)
    verify(contents.kind, contents.config, contents.shapes(PARAMS), str(folder))
    if contents.part(ESTIMATOR):
        verify("estimator", contents.estimator_config(), contents.shapes(ESTIMATOR), f"{folder}, estimator")
    return contents


def described(about: object) -> tuple[str, dict[str, Any]]:
    """Returns the kind and the configuration in the description of weights, which may come from anywhere.

    Raises:
      PretrainedError: If it holds something else.
    """
    match about:
        case {"kind": str(kind), "model": dict(config)}:
            return kind, config
    raise PretrainedError("wanted a description with the name of a kind and the fields of a model; convert it again")


def _read_shipped(name: str) -> Contents:
    entries, metadata = read_safetensors(shipped_file(name))
    about = json.loads(metadata[METADATA])
    entries = expand(entries, about["model"]["vocab_size"])
    contents = Contents(about["kind"], about["model"], about["origin"], entries, tuple(about.get("notes", ())))
    verify(contents.kind, contents.config, contents.shapes(PARAMS), name)
    return contents


def write_shipped(path: pathlib.Path, weights: Pretrained, rows: Int[np.ndarray, " n"], origin: str) -> None:
    """Writes a CLIP as one small file, see `hbi_jax.pretrained.shipped`.

    Args:
      path: The file, which is replaced once the new one is complete.
      weights: The CLIP, whose table of tokens has only the trained rows.
      rows: CLIP's ids of these tokens, in order.
      origin: A description of where the weights come from.
    """
    contents = contents_of(weights)
    config = {**contents.config, "vocab_size": CLIPConfig().vocab_size}
    contents = contents._replace(origin=origin, config=config)
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        write_safetensors(partial, compress(contents.entries, rows), {METADATA: json.dumps(header(contents))}, False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_folder(contents: Contents, destination: str | os.PathLike, overwrite: bool, progress: bool) -> None:
    """Writes contents to a folder that `read_folder` reads.

    Raises:
      PretrainedError: If the destination exists or cannot be written.
    """
    about = header(contents)
    with new_folder(destination, overwrite) as folder:
        write_safetensors(folder / WEIGHTS, contents.entries, {METADATA: json.dumps(about)}, progress)
        (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def header(contents: Contents) -> dict[str, Any]:
    """Returns the description that is stored in a folder."""
    notes = {"notes": list(contents.notes)} if contents.notes else {}
    return {"format": FORMAT, "kind": contents.kind, "origin": contents.origin, **notes, "model": contents.config}


def materialize(contents: Contents, label: str, progress: bool) -> Pretrained:
    """Reads every tensor into memory; `label` names the progress bar."""
    arrays = {}
    with Progress(len(contents.entries), label, shown=progress) as bar:
        for name, entry in contents.entries.items():
            arrays[name] = np.asarray(entry.read())
            bar.update()
    params, beside, unused = (_part(arrays, prefix) for prefix in (PARAMS, ESTIMATOR, UNUSED))
    estimator = Pretrained("estimator", contents.estimator_config(), _unflatten(beside)) if beside else None
    return Pretrained(contents.kind, contents.config, _unflatten(params), estimator, unused)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      PretrainedError: If the file is missing, unreadable or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PretrainedError(
            f"{path.parent} has no {path.name}, which describes its weights; name the right folder, or convert the "
            "file of weights itself"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} cannot be read ({error}); copy or download it again") from error
    if not isinstance(content, dict):
        raise PretrainedError(f"{path} holds no object; copy or download it again")
    return content


def is_converted(about: Mapping[str, Any]) -> bool:
    """Returns whether a `config.json` is one of ours."""
    return "kind" in about and "model" in about


def local(folder: str | os.PathLike) -> pathlib.Path:
    """Returns a path on this machine.

    Raises:
      PretrainedError: If the path is in a bucket, or in the home folder of an unknown user.
    """
    text = os.fspath(folder)
    if "://" in text:
        raise PretrainedError(f"{text} is not on this machine, wanted a local path; copy it here first")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise PretrainedError(f"{text} is of nobody here ({error}); write the path out") from error


def exists(path: pathlib.Path) -> bool:
    """Returns whether the path exists.

    Raises:
      PretrainedError: If the system cannot tell, for example because the name is too long or a folder is not readable.
    """
    try:
        return path.exists()
    except OSError as error:
        raise PretrainedError(f"{path} is no path that can be used ({error.strerror}); correct it") from error


def refuse_run(path: pathlib.Path) -> None:
    """Raises if the path is the work folder of a run or one of its steps, which this module does not read."""
    if exists(path / "checkpoints") or (path.parent.name == "checkpoints" and exists(path)):
        raise PretrainedError(
            f"{path} holds checkpoints of a run, wanted weights; write them as a folder first, in Python: "
            f"hbi_jax.pretrained.save(FOLDER, hbi_jax.tasks.weights.load_weights({str(path)!r})), and use FOLDER"
        )


def check_destination(destination: str | os.PathLike, overwrite: bool, source: str | os.PathLike | None = None) -> None:
    """Checks that a destination folder can be written.

    Args:
      destination: The folder.
      overwrite: Whether to replace the folder if this library wrote it.
      source: The source of the weights, which must not be replaced.

    Raises:
      PretrainedError: If something exists there that must not be replaced, or no folder can be created there.
    """
    folder = local(destination)
    there = exists(folder)
    if folder.is_symlink():
        raise PretrainedError(f"{folder} is a link; name the folder that it leads to, or choose another destination")
    if not there:
        parent = next(place for place in folder.absolute().parents if exists(place))
        if not parent.is_dir():
            raise PretrainedError(f"{folder} cannot be made: {parent} is no folder; choose another destination")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PretrainedError(f"{folder} cannot be made: {parent} is not writable; choose another destination")
        return
    if source is not None and exists(place := local(source)):
        place = place.resolve()
        if folder.resolve() in (place, *place.parents):
            raise PretrainedError(f"{folder} is or holds the source {source}; choose another destination")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not overwrite:
        raise PretrainedError(f"{folder} exists already; choose another destination, or add --overwrite to replace it")
    others = [] if _is_ours(folder) else [folder.name]
    if folder.is_dir():
        others += [
            path.name for path in folder.iterdir() if path.name not in (WEIGHTS, CONFIG, PUBLISHED, PREPROCESSOR)
        ]
    if others:
        raise PretrainedError(
            f"{folder} holds what hbi_jax did not write ({listed(sorted(others), most=3)}) and is not replaced; "
            "choose another destination"
        )


@contextlib.contextmanager
def new_folder(destination: str | os.PathLike, overwrite: bool) -> Iterator[pathlib.Path]:
    """Yields a temporary folder that replaces the destination on success and is deleted after an error.

    Raises:
      PretrainedError: If the destination exists and must not be replaced, or if it cannot be written.
    """
    check_destination(destination, overwrite)
    folder = local(destination).absolute()
    # These names do not contain the folder's own name, which may already have the maximum length.
    partial, old = (folder.with_name(f".{uuid.uuid4().hex[:12]}.{what}") for what in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another destination"
        raise PretrainedError(f"{folder} cannot be written ({error}); {remedy}") from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _is_ours(folder: pathlib.Path) -> bool:
    for name in (WEIGHTS, PUBLISHED):
        with contextlib.suppress(PretrainedError):
            if METADATA in read_safetensors(folder / name)[1]:
                return True
    return False


def _part(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _flatten(prefix: str, params: PyTree) -> dict[str, Any]:
    return {prefix + path: leaf for path, leaf in leaves_of(params).items()}


def _unflatten(arrays: Mapping[str, np.ndarray]) -> PyTree:
    return {"params": unflatten_dict(arrays, sep="/")}
