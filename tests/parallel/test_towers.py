"""Towers over a mesh: what a compiled gradient moves, and that it is the gradient of one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.clip import Transformer
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import batch_sharding, make_mesh, param_shardings
from hbi_jax.parallel.pairs import on_mesh
from hbi_jax.plan.hlo import Program
from tests.tiny_hbi import CONFIG, FRAMES, make_batch, random_params

LAYERS, HEADS, ROWS, TOKENS, WIDTH = 3, 4, 8, 5, 32


@pytest.fixture(scope="module")
def problem():
    """Parameters, tokens and a mask, and the loss whose gradient is taken."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(ROWS, TOKENS, WIDTH)), jnp.float32)
    mask = jnp.asarray(np.arange(TOKENS) <= rng.integers(1, TOKENS, (ROWS, 1)))[:, None]
    bias = jnp.asarray(rng.normal(size=(HEADS, TOKENS, TOKENS)), jnp.float32)
    params = random_params(Transformer(LAYERS, HEADS, scan_layers="off"), x, mask, bias)
    return params, x, mask, bias


def gradient(scan, mesh=None):
    """The gradient of a loss of all rows, with respect to parameters, tokens and bias."""

    def loss(params, x, mask, bias):
        return jnp.mean(jnp.sin(Transformer(LAYERS, HEADS, scan_layers=scan).apply(params, x, mask, bias)))

    def of_mesh(*arguments):
        with on_mesh(mesh):
            return jax.grad(loss, (0, 1, 3))(*arguments)

    return jax.grad(loss, (0, 1, 3)) if mesh is None else of_mesh


def compiled(scan, mesh, problem, fsdp=False):
    params, *rest = problem
    where = param_shardings(params, mesh, fsdp=fsdp), batch_sharding(mesh), batch_sharding(mesh), None
    step = jax.jit(gradient(scan, mesh), in_shardings=where, out_shardings=(where[0], where[1], None))
    return step.lower(params, *rest).compile(), where


@pytest.mark.parametrize(("data", "model", "fsdp"), [(8, 1, False), (4, 2, False), (8, 1, True), (4, 2, True)])
@pytest.mark.parametrize("scan", ["on", "off"])
def test_a_mesh_gives_the_gradient_of_one_device(problem, scan, data, model, fsdp, monkeypatch):
    monkeypatch.setattr("hbi_jax.parallel.mesh._FSDP_SIZE", 1)
    step, (params, *_) = compiled(scan, make_mesh(data, model), problem, fsdp)
    got = step(jax.device_put(problem[0], params), *problem[1:])
    wanted = jax.jit(gradient("off"))(*problem)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, wanted)


def test_gradients_of_layers_are_added_up_outside_their_loop(problem):
    step, _ = compiled("on", make_mesh(8, 1), problem)
    program = Program(step.as_text())
    assert program.loops()
    found = program.collectives()
    assert {part.kind for part in found} == {"all-reduce"}
    assert not [part for part in found if part.in_loop]


@pytest.mark.parametrize("scan", ["on", "off"])
def test_tensor_parallelism_cuts_whole_heads(problem, scan):
    """Of tokens, each layer adds up two products forward and two backward; what else moves are kernels."""
    step, _ = compiled(scan, make_mesh(4, 2), problem)
    found = Program(step.as_text()).collectives()
    assert {part.kind for part in found} == {"all-reduce", "all-gather"}
    tokens = ROWS // 4 * TOKENS * WIDTH * 4
    assert sum(part.times for part in found if part.kind == "all-reduce" and part.size == tokens) == 4 * LAYERS
    kernel = 3 * WIDTH * WIDTH * 4
    assert max(part.size for part in found if part.kind == "all-gather") == kernel


def test_heads_that_the_devices_do_not_divide_stay_together(problem):
    """Four heads over eight devices: slower, and the same numbers."""
    step, (params, *_) = compiled("off", make_mesh(1, 8), problem)
    got = step(jax.device_put(problem[0], params), *problem[1:])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, jax.jit(gradient("off"))(*problem))


def test_a_loop_needs_neither_mask_nor_bias(problem):
    """As in the vision tower."""
    params, x, *_ = problem
    mesh, model = make_mesh(8, 1), Transformer(LAYERS, HEADS, scan_layers="on")

    def on_devices(params, x):
        with on_mesh(mesh):
            return model.apply(params, x)

    got = jax.jit(on_devices, in_shardings=(None, batch_sharding(mesh)))(params, x)
    np.testing.assert_allclose(got, jax.jit(model.apply)(params, x), atol=1e-6)


@pytest.mark.parametrize("fsdp", [False, True])
def test_frames_in_portions_are_looped_over_on_a_mesh(fsdp, monkeypatch):
    """A loop over portions of frames around the loop over layers."""
    monkeypatch.setattr("hbi_jax.parallel.mesh._FSDP_SIZE", 1)
    batch = jax.tree.map(jnp.asarray, make_batch(ROWS))
    params = random_params(HBI(CONFIG), batch)

    def gradient(mesh, **fields):
        model = HBI(dataclasses.replace(CONFIG, **fields))

        def loss(params, batch):
            with on_mesh(mesh):
                return jnp.sum(jnp.sin(model.apply(params, batch.frames, batch.frame_mask, method="frame_features")))

        where = param_shardings(params, mesh, fsdp=fsdp)
        step = jax.jit(jax.grad(loss), in_shardings=(where, batch_sharding(mesh)), out_shardings=where)
        return step(jax.device_put(params, where), jax.device_put(batch, batch_sharding(mesh)))

    got = gradient(make_mesh(8, 1), frame_portions=FRAMES, scan_layers="on")["params"]["vision_tower"]
    wanted = gradient(make_mesh(1, 1, jax.devices()[:1]), scan_layers="off")["params"]["vision_tower"]
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)) > 0.1
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), got, wanted)
