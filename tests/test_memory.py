"""Freed memory goes back to the operating system."""

import ctypes
import pathlib
import platform
import resource

import jax
import jax.numpy as jnp
import pytest

from hbi_jax.memory import give_back
from hbi_jax.train import step
from hbi_jax.train.state import TrainState

MIB = 2**20


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine's C library is not glibc")
def test_small_pieces_are_given_back():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pieces = [library.malloc(4000) for _ in range(16384)]
    for piece in pieces:
        ctypes.memset(piece, 1, 4000)
    # The last piece stays: it keeps the C library from returning what lies below it.
    for piece in pieces[:-1]:
        library.free(piece)
    kept = resident()
    give_back()
    assert resident() < kept - 48 * MIB
    library.free(pieces[-1])


def test_other_c_libraries_are_left_alone(monkeypatch):
    for error in (AttributeError, OSError, TypeError):

        def unknown(name, error=error):
            raise error(name)

        monkeypatch.setattr(ctypes, "CDLL", unknown)
        give_back()


def test_a_compiled_step_is_the_step_without_the_compiler_s_memory(monkeypatch):
    events = []

    @jax.jit
    def step_fn(state, batch):
        events.append("traced")
        return state._replace(params=state.params + batch), {}

    monkeypatch.setattr(step, "give_back", lambda: events.append("given back"))
    state, batch = TrainState(jnp.int32(0), jnp.float32(1), ()), jnp.float32(2)
    compiled = step.compile_step(step_fn, state, batch)
    assert events == ["traced", "given back"]
    assert compiled(state, batch) == step_fn(state, batch) == (state._replace(params=3.0), {})
