"""The suite's own compilation: each program once, and costs measured of what users compile."""

import collections
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.parallel.mesh import batch_sharding, make_mesh
from tests import compilation
from tests.optimized import compile_optimized

EVENTS = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: EVENTS.update([name.rsplit("/", 1)[-1]]))


def program():
    """Another function each time, which JAX's own caches do not know."""
    return jax.jit(lambda x: jnp.tanh(x @ x.T).sum(0) + x.mean())


@pytest.mark.parametrize("devices", [1, 8])
def test_a_program_is_compiled_once(devices):
    mesh = make_mesh(devices, 1, jax.devices()[:devices])
    x = jax.device_put(np.random.default_rng(devices).normal(size=(8, 8 + devices)), batch_sharding(mesh))
    wanted, before = program()(x), EVENTS.copy()
    got = program()(x)
    found = EVENTS - before
    assert (found["compile_requests_use_cache"], found["cache_hits"]) == (1, 1)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="only Linux limits mappings")
def test_programs_are_forgotten_before_their_mappings_run_out():
    kept, x = dict(compilation._kept), np.ones((8, 23))
    program()(x)
    compilation.make_room()
    assert len(compilation._kept) > len(kept)
    compilation.make_room(0.0)
    assert not compilation._kept


def test_costs_are_those_of_another_program():
    lowered = program().lower(jnp.ones((8, 19)))
    lowered.compile()
    before = EVENTS.copy()
    compile_optimized(lowered)
    found = EVENTS - before
    assert (found["compile_requests_use_cache"], found["cache_hits"]) == (1, 0)
