"""Functions of all pairs over a mesh: the values of one device, with one gather, outside the loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models import similarity as similarities
from hbi_jax.models.reconstruction import SideMLPs, reconstructed_wti, reconstruction_side
from hbi_jax.models.similarity import wti
from hbi_jax.models.token_mlp import MLP
from hbi_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from hbi_jax.parallel.pairs import all_pairs, each_row, num_shards, on_mesh, platform
from hbi_jax.types import WeightedTokens

WIDTH, HIDDEN = 8, 4


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def products(first, second, scale):
    return scale * jnp.tanh(first @ second.T)


def loss(scale, first, second):
    return jnp.sum(all_pairs(products, first, second, scale) ** 2)


def test_without_a_mesh_nothing_is_divided():
    assert (num_shards(8), platform()) == (1, "cpu")
    sides = jnp.asarray(normal(0, 3, 2)), jnp.asarray(normal(1, 4, 2))
    np.testing.assert_array_equal(all_pairs(products, *sides, 2.0), products(*sides, 2.0))


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (1, 8)])
@pytest.mark.parametrize(("a", "b"), [(16, 8), (8, 6), (6, 8)], ids=["both divide", "first divides", "second divides"])
def test_values_and_gradients_are_those_of_one_device(data, model, a, b):
    mesh, sides = make_mesh(data, model), (normal(0, a, 2), normal(1, b, 2))
    places = [batch_sharding(mesh) if not len(side) % data else replicated(mesh) for side in sides]

    def on_devices(*arguments):
        with on_mesh(mesh):
            assert num_shards(a) == (data if not a % data else 1)
            return jax.value_and_grad(loss, (0, 1, 2))(*arguments)

    got = jax.jit(on_devices, in_shardings=(replicated(mesh), *places))(3.0, *sides)
    wanted = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(3.0, *sides)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6), got, wanted)


def test_each_row_moves_nothing():
    """`top_k`, for which the compiler gathers the batch otherwise."""
    mesh, x = make_mesh(4, 2), normal(0, 8, 6)

    def best(x):
        return jax.lax.top_k(x, 2)[0]

    def on_devices(x):
        with on_mesh(mesh):
            return each_row(best, x)

    program = jax.jit(on_devices, in_shardings=batch_sharding(mesh), out_shardings=batch_sharding(mesh))
    np.testing.assert_array_equal(program(x), best(x))
    compiled = program.lower(x).compile().as_text()
    assert "all-gather" not in compiled
    np.testing.assert_array_equal(jax.jit(on_devices)(x[:6]), best(x[:6]))


def test_gradients_of_what_rows_share_are_those_of_one_device():
    mesh, x, weights = make_mesh(4, 2), normal(0, 8, 6), (normal(1, 6, 6), normal(2, 6))

    def steps(x, kernel, bias):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ kernel + bias[None]), x)

    def loss(x, weights):
        return jnp.sum(each_row(steps, x, shared=weights) ** 2)

    def on_devices(*arguments):
        with on_mesh(mesh):
            return jax.grad(loss, (0, 1))(*arguments)

    got = jax.jit(on_devices, in_shardings=(batch_sharding(mesh), replicated(mesh)))(x, weights)
    wanted = jax.jit(jax.grad(loss, (0, 1)))(x, weights)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), got, wanted)


def tokens(seed, rows, count):
    lengths = np.random.default_rng(seed).integers(1, count + 1, (rows, 1))
    return WeightedTokens(normal(seed, rows, count, WIDTH), np.arange(count) < lengths, normal(seed + 1, rows, count))


def mlps(seed):
    shapes = ((WIDTH, HIDDEN), (HIDDEN,), (HIDDEN, 1), (1,))
    return SideMLPs(*(MLP(*(normal(seed + i, *shape) for shape in shapes)) for i in range(2)))


def plain(params, text, video, sentence):
    del params, sentence
    return wti(text, video, 1)


def reconstructed(params, text, video, sentence):
    text_mlps, video_mlps = params
    sides = reconstruction_side(text, text_mlps, sentence), reconstruction_side(video, video_mlps)
    return reconstructed_wti(*sides, *params, video_block=1)


@pytest.mark.parametrize("similarity", [plain, reconstructed])
def test_similarities_move_each_side_once_and_nothing_in_their_loops(similarity, monkeypatch):
    monkeypatch.setattr(similarities, "_WHOLE_BYTES", {"other": 0})
    mesh = make_mesh(4, 2)
    arguments = ((mlps(0), mlps(7)), tokens(20, 16, 5), tokens(30, 16, 3), normal(40, 16, WIDTH))

    def total(params, text, video, sentence):
        return jnp.sum(similarity(params, text, video, sentence) ** 2)

    def on_devices(*arguments):
        with on_mesh(mesh):
            return jax.value_and_grad(total, allow_int=True, argnums=(0, 1, 2, 3))(*arguments)

    rows = batch_sharding(mesh)
    step = jax.jit(on_devices, in_shardings=(replicated(mesh), rows, rows, rows))
    got = step(*arguments)
    wanted = jax.jit(jax.value_and_grad(total, allow_int=True, argnums=(0, 1, 2, 3)))(*arguments)
    jax.tree.map(
        lambda x, y: x.dtype == jax.dtypes.float0 or np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        got,
        wanted,
    )
    program = str(jax.make_jaxpr(on_devices)(*arguments))
    # A loop is closed by a brace at its own depth: what it moves stands deeper than it.
    moved = [line for line in program.splitlines() if re.search(r"= (all_gather|reduce_scatter|psum\w*)\[", line)]
    gathers = [line for line in moved if "all_gather[" in line]
    assert len(gathers) == len(jax.tree.leaves(arguments[2])) + 2 * (similarity is reconstructed)
    depths = {len(line) - len(line.lstrip()) for line in moved}
    loops = {len(line) - len(line.lstrip()) for line in program.splitlines() if re.search(r"= (scan|while)\[", line)}
    assert depths
    assert max(depths) <= min(loops)
