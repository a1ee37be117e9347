"""Storage that fails: damage to saved checkpoints, and saves that cannot be completed. Each case says how it ended."""

import contextlib
import ctypes
import itertools
import json
import logging
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.train.checkpoint import CheckpointError, Checkpoints
from hbi_jax.train.state import TrainState, abstract_state

METRIC = "t2v/R@1"
_TX = optax.adam(1e-3)
# Files written by libfiu's shim fail with these errors; where it is not preloaded, these cases are left out.
_ERRORS = {"EIO": 5, "ENOSPC": 28}
_CALLS = ("rw/write", "rw/pwrite", "rw/writev", "dir/rename", "sync/fsync", "oc/open")


class Outcome(NamedTuple):
    """How a case ended.

    Attributes:
      case: What failed.
      end: "unharmed": the newest state was read as it was saved. "previous": the one before was. "refused": the save
        failed, and the state before it was read as it was saved.
      message: What was said; empty if nothing was.
    """

    case: str
    end: str
    message: str


def _params() -> dict:
    return {"params": {"mlp_fc": {"kernel": jnp.zeros((64, 96)), "bias": jnp.zeros(96)}, "scale": jnp.zeros(())}}


def _mesh():
    return make_mesh(1, 1, jax.devices()[:1])


def _state(step: int) -> TrainState:
    rng = np.random.default_rng(step)
    state = jax.tree.map(
        lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding),
        abstract_state(_params, _TX, _mesh()),
    )
    return state._replace(step=jax.device_put(np.int32(step), state.step.sharding))


def _save(folder: pathlib.Path, *steps: int) -> None:
    with Checkpoints(str(folder), METRIC) as checkpoints:
        for step in steps:
            checkpoints.save(_state(step), {METRIC: float(step)})


def _restored(folder: pathlib.Path) -> int:
    """Returns the step that training resumes from; raises if its state is not what was saved."""
    with Checkpoints(str(folder), METRIC) as checkpoints:
        state, _ = checkpoints.restore_latest(abstract_state(_params, _TX, _mesh()))
    jax.tree.map(np.testing.assert_array_equal, state, _state(int(state.step)))
    return int(state.step)


class _Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def _messages() -> Iterator[list[str]]:
    handler, logger = _Messages(), logging.getLogger("hbi_jax.train.checkpoint")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def _flip(path: pathlib.Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << 3
    path.write_bytes(data)


def _cut(path: pathlib.Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def _remove(path: pathlib.Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def damage(folder: pathlib.Path) -> Iterator[Outcome]:
    """Damages the newest of two checkpoints in every way, each in a copy of its own."""
    whole = folder / "whole"
    _save(whole, 1, 2)
    newest = whole / "2"
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    largest = sorted(files, key=lambda path: path.stat().st_size)[-2:]
    cases: list[tuple[str, pathlib.Path, Callable[[pathlib.Path], None]]] = []
    for path in files:
        cases.append((f"a bit of {path.relative_to(newest)} flips", path, lambda path: _flip(path, 0.5)))
    for path in largest:
        cases += [
            (f"{path.relative_to(newest)} is cut to {share:.0%}", path, lambda path, share=share: _cut(path, share))
            for share in (0.0, 0.5)
        ]
    for path in sorted([*newest.iterdir(), *(newest / "params").iterdir()]):
        cases.append((f"{path.relative_to(newest)} is deleted", path, _remove))
    for number, (name, path, harm) in enumerate(cases):
        copy = folder / f"copy-{number}"
        shutil.copytree(whole, copy)
        harm(copy / path.relative_to(whole))
        with _messages() as lines:
            step = _restored(copy)
        shutil.rmtree(copy)
        yield Outcome(name, {1: "previous", 2: "unharmed"}[step], lines[0] if lines else "")


@contextlib.contextmanager
def _small_files(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def _tmpfs(folder: pathlib.Path, size: str) -> Iterator[bool]:
    """Mounts a small file system, which takes a privileged user; gives False where it cannot."""
    folder.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def _shim() -> ctypes.CDLL | None:
    """Returns libfiu, if its shim was preloaded into this process."""
    if "fiu_posix_preload" not in os.environ.get("LD_PRELOAD", ""):
        return None
    library = ctypes.CDLL("libfiu.so.0")
    library.fiu_enable_random.argtypes = [
        *(ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_float)
    ]
    return library


@contextlib.contextmanager
def _failing(library: ctypes.CDLL, call: str, error: int, share: float) -> Iterator[None]:
    name = f"posix/io/{call}".encode()
    library.fiu_enable_random(name, 1, error, 0, share)
    try:
        yield
    finally:
        library.fiu_disable(name)


def _attempt(folder: pathlib.Path, step: int, fault: Callable[[], contextlib.AbstractContextManager]) -> str | None:
    """Saves a step under a fault; returns what was said if that failed."""
    state = _state(step)
    jax.block_until_ready(state)
    try:
        with Checkpoints(str(folder), METRIC) as checkpoints, fault():
            checkpoints.save(state, {METRIC: float(step)})
            checkpoints.wait()
    except CheckpointError as error:
        return str(error)
    return None


def _ended(case: str, folder: pathlib.Path, said: str | None) -> Outcome:
    step = _restored(folder)
    end = {2: "unharmed", 1: "refused" if said else "lost"}[step]
    return Outcome(case, end, said or "")


def failing_saves(folder: pathlib.Path) -> Iterator[Outcome]:
    """Saves a second checkpoint while the storage fails in every way."""
    number = 0

    def fresh() -> pathlib.Path:
        nonlocal number
        number += 1
        _save(folder / f"saves-{number}", 1)
        return folder / f"saves-{number}"

    for limit in (100, 4_000, 12_000, 20_000, 40_000):
        place = fresh()
        said = _attempt(place, 2, lambda limit=limit: _small_files(limit))
        yield _ended(f"files may not exceed {limit:,} bytes", place, said)
    one = sum(512 * path.stat().st_blocks for path in place.rglob("*"))
    for share in (1.4, 1.8):
        with _tmpfs(folder / f"small-{share}", str(int(share * one))) as mounted:
            if mounted:
                place = folder / f"small-{share}" / "checkpoints"
                _save(place, 1)
                said = _attempt(place, 2, contextlib.nullcontext)
                yield _ended(f"the disk has room for {share} checkpoints", place, said)
    with _tmpfs(folder / "frozen", "4m") as mounted:
        if mounted:
            place = folder / "frozen" / "checkpoints"
            _save(place, 1)
            _mount("-o", "remount,ro", str(folder / "frozen"))
            said = _attempt(place, 2, contextlib.nullcontext)
            _mount("-o", "remount,rw", str(folder / "frozen"))
            yield _ended("the folder becomes read-only", place, said)
    library = _shim()
    for call in _CALLS if library else ():
        for name, error in _ERRORS.items():
            place = fresh()
            said = _attempt(place, 2, lambda call=call, error=error: _failing(library, call, error, 0.5))
            yield _ended(f"{call.partition('/')[2]} fails with {name} half of the time", place, said)


def main() -> None:
    """Prints the outcome of every case as JSON, one a line."""
    with tempfile.TemporaryDirectory() as name:
        for outcome in itertools.chain(damage(pathlib.Path(name)), failing_saves(pathlib.Path(name))):
            print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
