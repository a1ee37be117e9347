"""The interaction network: its formula, its five kinds, and that padding is as if outside the matrix."""

import math
import re
from typing import get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from hbi_jax.banzhaf import estimator
from hbi_jax.banzhaf.estimator import InteractionNet, InteractionNetKind
from tests.tiny_hbi import random_params

KINDS = get_args(InteractionNetKind)
FEATURES = 4
SIMILARITY = np.random.default_rng(0).uniform(-1, 1, (2, 5, 4)).astype(np.float32)
# The second row has three words and two frames.
MASK = np.ones((2, 5, 4), bool)
MASK[1, 3:] = MASK[1, :, 2:] = False


def network(kind):
    net = InteractionNet(kind, FEATURES)
    params = random_params(net, jnp.asarray(SIMILARITY))
    return params, jax.jit(net.apply)


def convolve(x, p, size):
    """A same-padded convolution of [t, v, c] in numpy."""
    t, v = x.shape[:2]
    around = np.pad(x, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    out = sum(
        around[i : i + t, j : j + v] @ p["kernel"][i, j].astype(np.float64) for i in range(size) for j in range(size)
    )
    return out + p["bias"]


def by_hand(kind, params, similarity):
    if kind == "none":
        return similarity
    p, size = params["params"], 3 if kind.startswith("cnn") else 1
    h = np.maximum(convolve(similarity[..., None].astype(np.float64), p["conv_in"], size), 0)
    if kind.endswith("_sa"):
        cells = h.reshape(-1, FEATURES)
        query, key, value = (cells @ p[name]["kernel"] for name in ("query", "key", "value"))
        weights = np.exp(query @ key.T)
        h = h + (weights / weights.sum(1, keepdims=True) @ value).reshape(h.shape)
    return convolve(h, p["conv_out"], size)[..., 0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_its_formula_on_the_real_cells(kind):
    """Row 1 is computed from its real cells alone; its padding holds garbage and comes out as zero."""
    params, apply = network(kind)
    got = np.asarray(apply(params, np.where(MASK, SIMILARITY, 7.0).astype(np.float32), MASK))
    np.testing.assert_allclose(got[0], by_hand(kind, params, SIMILARITY[0]), atol=1e-5)
    np.testing.assert_allclose(got[1, :3, :2], by_hand(kind, params, SIMILARITY[1, :3, :2]), atol=1e-5)
    np.testing.assert_array_equal(got[~MASK], 0)


def test_the_kinds_differ():
    shapes = {kind: jax.tree.map(np.shape, network(kind)[0]).get("params", {}) for kind in KINDS}
    assert shapes["none"] == {}
    assert set(shapes["mlp"]) == set(shapes["cnn"]) == {"conv_in", "conv_out"}
    assert set(shapes["mlp_sa"]) == set(shapes["cnn_sa"]) == {"conv_in", "conv_out", "query", "key", "value"}
    assert shapes["mlp"]["conv_in"]["kernel"] == (1, 1, 1, FEATURES)
    assert shapes["cnn_sa"]["conv_in"]["kernel"] == (3, 3, 1, FEATURES)


def test_no_mask_means_that_all_is_real():
    params, apply = network("cnn_sa")
    np.testing.assert_allclose(apply(params, SIMILARITY), apply(params, SIMILARITY, np.ones_like(MASK)), atol=1e-6)


def test_nothing_real_gives_zero_and_finite_gradients():
    params, apply = network("cnn_sa")
    similarity, nothing = jnp.asarray(SIMILARITY), jnp.zeros(MASK.shape, bool)
    net = InteractionNet("cnn_sa", FEATURES)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, similarity, nothing))))(params)
    np.testing.assert_array_equal(apply(params, similarity, nothing), 0)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), gradient)


def test_attention_in_blocks_of_rows_is_the_same(monkeypatch):
    """Values and gradients; three rows in blocks of two, and the logits of all are never held."""
    similarity, mask = (jnp.concatenate([jnp.asarray(x), jnp.asarray(x[:1])]) for x in (SIMILARITY, MASK))
    params, _ = network("cnn_sa")

    def energy(params, similarity):
        return jnp.sum(InteractionNet("cnn_sa", FEATURES).apply(params, similarity, mask) ** 2)

    wanted = jax.jit(jax.value_and_grad(energy, (0, 1)))(params, similarity)
    monkeypatch.setattr(estimator, "_ATTENTION_BYTES", 2 * 4 * 20**2)
    blocks = jax.jit(jax.value_and_grad(lambda *arguments: energy(*arguments), (0, 1)))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), blocks(params, similarity), wanted
    )
    program = str(jax.make_jaxpr(blocks)(params, similarity))
    logits = [math.prod(map(int, rows.split(","))) for rows in re.findall(r"f32\[([\d,]+),20,20\]", program)]
    assert max(logits) == 2


def test_bfloat16_is_computed_in_float32():
    params, apply = network("cnn")
    low = jnp.asarray(SIMILARITY, jnp.bfloat16)
    got = apply(params, low)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, apply(params, np.asarray(low, np.float32)), atol=1e-6)


def test_an_unknown_kind_is_named(monkeypatch):
    """By the network itself: where types are checked, as here, it cannot even be made."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="kind='rnn'; use one of none, mlp, cnn, mlp_sa, cnn_sa"):
        InteractionNet("rnn").init(jax.random.key(0), jnp.asarray(SIMILARITY))
