"""The temporal transformer: what comes out without layers, what padding may do, what frames see, and their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.clip import Attention
from hbi_jax.models.frames import FrameTransformer
from hbi_jax.types import Tokens
from tests.tiny_hbi import random_params

MODEL = FrameTransformer(num_layers=1, num_heads=2, max_frames=7)


def random_frames(rows: int, frames: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (rows, frames, 8))


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, Tokens(random_frames(1, 5), jnp.ones((1, 5), bool)))


@pytest.fixture(scope="module")
def apply():
    return jax.jit(MODEL.apply)


def test_without_layers_by_hand(params):
    """The residual of the transformer holds frames and positions, and the frames are added once more."""
    x = random_frames(2, 5)
    got = jax.jit(FrameTransformer(0, 2, 7).apply)(params, Tokens(x, jnp.ones((2, 5), bool)))
    position = params["params"]["positional_embedding"]
    np.testing.assert_allclose(got.features, 2 * x + position[None, :5], atol=1e-6)


@pytest.mark.parametrize("view", ["window", "past", "alone"])
@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_padded_is_unpadded(view, positions):
    model = FrameTransformer(2, 2, 7, window=2, past=1, positions=positions)
    x, mask = random_frames(3, 5), jnp.arange(5)[None] < jnp.array([[5], [3], [1]])
    params = random_params(model, Tokens(x, mask))
    apply = jax.jit(lambda params, frames: model.apply(params, frames, view))
    got = apply(params, Tokens(x, mask))
    garbage = apply(params, Tokens(jnp.where(mask[..., None], x, 100.0), mask))
    np.testing.assert_array_equal(got.features[mask], garbage.features[mask])
    np.testing.assert_array_equal(got.mask, mask)
    for row, length in ((1, 3), (2, 1)):
        alone = apply(params, Tokens(x[row : row + 1, :length], jnp.ones((1, length), bool)))
        np.testing.assert_allclose(alone.features[0], got.features[row, :length], atol=5e-6)


@pytest.mark.parametrize("view", ["window", "past", "alone"])
def test_the_host_may_give_its_own_arrays_without_compiling(view):
    model = FrameTransformer(1, 2, 7, window=2, past=1, positions="relative")
    x, mask = random_frames(2, 5), np.array([[True] * 5, [True] * 3 + [False] * 2])
    params, given = random_params(model, Tokens(x, mask)), mask.copy()
    got = model.apply(params, Tokens(x, mask), view)
    wanted = jax.jit(lambda params, frames: model.apply(params, frames, view))(params, Tokens(x, jnp.asarray(mask)))
    np.testing.assert_allclose(got.features, wanted.features, atol=5e-6)
    np.testing.assert_array_equal(mask, given)


def test_frames_see_each_other_and_their_order(params, apply):
    x, mask = random_frames(1, 5), jnp.ones((1, 5), bool)
    swap = jnp.array([1, 0, 2, 3, 4])
    got, swapped = apply(params, Tokens(x, mask)).features, apply(params, Tokens(x[:, swap], mask)).features
    assert np.abs(got[:, swap] - swapped).max(-1).min() > 1e-3
    orderless = {"params": {**params["params"], "positional_embedding": np.zeros((7, 8), np.float32)}}
    got, swapped = (apply(orderless, Tokens(y, mask)).features for y in (x, x[:, swap]))
    np.testing.assert_allclose(got[:, swap], swapped, atol=5e-6)


def test_a_frame_sees_only_its_neighbours_in_every_layer():
    """Two layers carry a frame's influence over two windows; a window of the whole video is none."""
    x, mask = random_frames(1, 7), jnp.ones((1, 7), bool)
    near = FrameTransformer(2, 2, 7, window=1)
    params = random_params(near, Tokens(x, mask))

    @jax.jit
    def influence(x):
        return jnp.abs(jax.jacobian(lambda y: near.apply(params, Tokens(y, mask)).features)(x)).sum((0, 2, 3, 5))

    reached = np.abs(np.subtract.outer(np.arange(7), np.arange(7))) <= 2
    np.testing.assert_array_equal(np.asarray(influence(x)) > 0, reached)
    wide, everything = (
        jax.jit(FrameTransformer(2, 2, 7, window=size).apply)(params, Tokens(x, mask)).features for size in (6, 0)
    )
    np.testing.assert_array_equal(wide, everything)


def test_a_frame_of_the_past_view_sees_itself_and_what_came_before():
    x, mask = random_frames(1, 7), jnp.ones((1, 7), bool)
    model = FrameTransformer(2, 2, 7, window=2, past=1)
    params = random_params(model, Tokens(x, mask))

    def influence(view):
        outputs = jax.jacobian(lambda y: model.apply(params, Tokens(y, mask), view).features)
        return np.asarray(jnp.abs(jax.jit(outputs)(x)).sum((0, 2, 3, 5))) > 0

    back = np.subtract.outer(np.arange(7), np.arange(7))
    np.testing.assert_array_equal(influence("past"), (back >= 0) & (back <= 2))
    np.testing.assert_array_equal(influence("window"), abs(back) <= 4)
    np.testing.assert_array_equal(influence("alone"), back == 0)


def test_relative_positions_know_the_order_but_not_the_place():
    """A video that starts two frames later gives the same features, two frames later; the order of frames matters."""
    model = FrameTransformer(2, 2, 7, window=1, positions="relative")
    x, mask = random_frames(1, 5), jnp.ones((1, 5), bool)
    params = random_params(model, Tokens(x, mask))
    assert params["params"]["relative_bias"].shape == (2, 13)
    assert "positional_embedding" not in params["params"]
    apply = jax.jit(model.apply)
    wanted = apply(params, Tokens(x, mask)).features
    later = Tokens(jnp.pad(x, ((0, 0), (2, 0), (0, 0)), constant_values=9.0), jnp.pad(mask, ((0, 0), (2, 0))))
    np.testing.assert_allclose(apply(params, later).features[:, 2:], wanted, atol=5e-6)
    backwards = apply(params, Tokens(x[:, ::-1], mask)).features[:, ::-1]
    assert np.abs(backwards - wanted).max(-1).min() > 1e-3
    loop = FrameTransformer(2, 2, 7, window=1, positions="relative", scan_layers="on")
    np.testing.assert_allclose(jax.jit(loop.apply)(params, Tokens(x, mask)).features, wanted, atol=5e-6)


def test_a_bias_is_added_to_the_logits_of_each_head():
    attention = Attention(num_heads=2)
    x = random_frames(1, 3)
    bias = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    params = random_params(attention, x)
    kernel = {name: params["params"][name] for name in ("in_proj", "out_proj")}
    project = kernel["in_proj"]
    query, key, value = np.split(np.asarray(x[0]) @ project["kernel"] + project["bias"][None], 3, axis=1)
    mixed = []
    for head in range(2):
        part = np.s_[:, 4 * head : 4 * head + 4]
        logits = query[part] @ key[part].T / 2 + bias[head]
        weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        mixed.append(weights @ value[part])
    wanted = np.concatenate(mixed, axis=1) @ kernel["out_proj"]["kernel"] + kernel["out_proj"]["bias"][None]
    np.testing.assert_allclose(attention.apply(params, x, None, jnp.asarray(bias))[0], wanted, atol=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_a_frame_alone_is_a_video_of_one_frame(positions):
    model = FrameTransformer(2, 2, 7, positions=positions)
    x, mask = random_frames(1, 5), jnp.ones((1, 5), bool)
    params = random_params(model, Tokens(x, mask))
    got = model.apply(params, Tokens(x, mask), view="alone").features
    for frame in range(5):
        only = model.apply(params, Tokens(x, mask & (jnp.arange(5) == frame)[None])).features
        np.testing.assert_allclose(got[:, frame], only[:, frame], atol=5e-6)


@pytest.mark.parametrize("window", [0, 1])
def test_a_video_without_frames_is_finite_and_alone(params, window):
    model = FrameTransformer(1, 2, 7, window=window)
    x, mask = random_frames(2, 5), jnp.array([[True] * 5, [False] * 5])

    def energy(x):
        return jnp.sum(jnp.where(mask[..., None], model.apply(params, Tokens(x, mask)).features, 0) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(energy))(x)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[1], 0)


def test_too_many_frames_are_named(params):
    with pytest.raises(ValueError, match=r"videos of 8 frames.*positions for 7.*num_frames <= 7"):
        MODEL.apply(params, Tokens(random_frames(1, 8), jnp.ones((1, 8), bool)))
