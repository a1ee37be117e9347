"""The token merge against a loop over clusters, and what padding, scores and too few tokens do to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.clustering import dpc_knn
from hbi_jax.models.token_merge import TokenMerge
from hbi_jax.types import Tokens
from tests.tiny_hbi import random_params

WIDTH, HEADS, CLUSTERS = 8, 2, 3
MODEL = TokenMerge(CLUSTERS, HEADS)
FEATURES = np.random.default_rng(0).normal(size=(4, 7, WIDTH)).astype(np.float32)
LENGTHS = np.array([7, 5, 2, 0])
MASK = np.arange(7) < LENGTHS[:, None]


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, Tokens(jnp.asarray(FEATURES), jnp.asarray(MASK)))


@pytest.fixture(scope="module")
def merge():
    apply = jax.jit(MODEL.apply)
    return lambda params, tokens: apply(params, tokens).tokens


@pytest.fixture(scope="module")
def merged(params, merge):
    return merge(params, Tokens(FEATURES, MASK))


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["bias"]


def merge_one(x, params):
    """One set of real tokens, cluster by cluster and head by head, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    around = np.pad(x.astype(np.float64), ((1, 1), (0, 0)))
    x = x + sum(around[k : k + len(x)] @ p["conv"]["kernel"][k] for k in range(3))
    x = norm(x, p["norm"])
    score = (x @ p["score"]["kernel"] + p["score"]["bias"])[:, 0]
    assignment = dpc_knn(jnp.asarray(x, jnp.float32), jnp.ones(len(x), bool), CLUSTERS).assignment
    tokens = norm(x, p["attention_norm"])
    attention, out = p["attention"], []
    for cluster in range(CLUSTERS):
        members = np.flatnonzero(np.asarray(assignment) == cluster)
        merged = np.average(x[members], axis=0, weights=np.exp(score[members]))
        query = norm(merged, p["attention_norm"]) @ attention["q"]["kernel"] + attention["q"]["bias"]
        key_value = tokens @ attention["kv"]["kernel"] + attention["kv"]["bias"]
        mixed, size = [], WIDTH // HEADS
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            logits = key_value[:, :WIDTH][:, part] @ query[part] / np.sqrt(size) + score
            mixed.append(np.average(key_value[:, WIDTH:][:, part], axis=0, weights=np.exp(logits)))
        out.append(merged + np.concatenate(mixed) @ attention["proj"]["kernel"] + attention["proj"]["bias"])
    return np.stack(out)


@pytest.mark.parametrize("row", [0, 1])
def test_padded_rows_are_the_loop_over_their_real_tokens(merged, params, row):
    wanted = merge_one(FEATURES[row, : LENGTHS[row]], params)
    np.testing.assert_allclose(merged.features[row], wanted, atol=1e-5)


def test_masks(merged):
    """As many tokens are real as there were, up to the number of clusters."""
    assert merged.mask.tolist() == [[True] * 3, [True] * 3, [True, True, False], [False] * 3]
    assert np.all(np.isfinite(merged.features))


def test_garbage_in_padding_and_other_rows_change_nothing(params, merge, merged):
    garbage = np.where(MASK[..., None], FEATURES, 1e3).astype(np.float32)
    again = merge(params, Tokens(garbage, MASK))
    np.testing.assert_array_equal(merged.features[merged.mask], again.features[again.mask])
    order = np.array([2, 0, 3, 1])
    shuffled = merge(params, Tokens(FEATURES[order], MASK[order]))
    np.testing.assert_array_equal(merged.mask[order], shuffled.mask)
    real = np.asarray(shuffled.mask)
    np.testing.assert_allclose(merged.features[order][real], shuffled.features[real], atol=1e-6)


def test_only_differences_of_scores_count_and_none_overflows(params, merge, merged):
    """exp(500) is no float32."""
    p = params["params"]
    shifted = {"params": {**p, "score": {**p["score"], "bias": p["score"]["bias"] + 500}}}
    got = merge(shifted, Tokens(FEATURES, MASK))
    np.testing.assert_allclose(got.features[:3][merged.mask[:3]], merged.features[:3][merged.mask[:3]], atol=2e-4)


def test_the_highest_score_is_the_cluster(params):
    """With scores far apart and no attention, a cluster is its best token."""
    p = jax.tree.map(jnp.asarray, params["params"])
    proj = jax.tree.map(jnp.zeros_like, p["attention"]["proj"])
    p = {**p, "attention": {**p["attention"], "proj": proj}}
    p["score"] = {**p["score"], "kernel": 1e3 * p["score"]["kernel"]}
    apply = jax.jit(lambda tokens: MODEL.apply({"params": p}, tokens, capture_intermediates=True))
    (merged, told), state = apply(Tokens(FEATURES, MASK))
    (x,), (score,) = (state["intermediates"][name]["__call__"] for name in ("norm", "score"))
    assignment = dpc_knn(x, jnp.asarray(MASK), CLUSTERS).assignment
    np.testing.assert_array_equal(told, assignment)
    merged = merged.features
    for row in range(3):
        for cluster in range(min(CLUSTERS, LENGTHS[row])):
            members = np.flatnonzero(assignment[row] == cluster)
            best = members[np.argmax(score.reshape(MASK.shape)[row, members])]
            np.testing.assert_allclose(merged[row, cluster], x[row, best], atol=1e-5)


def test_gradients_are_finite_and_reach_the_scores(params):
    def energy(params, features):
        merged = MODEL.apply(params, Tokens(features, jnp.asarray(MASK))).tokens
        return jnp.sum(jnp.where(merged.mask[..., None], merged.features, 0) ** 2)

    by_params, by_features = jax.jit(jax.grad(energy, argnums=(0, 1)))(params, FEATURES)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((by_params, by_features)))
    assert np.abs(by_params["params"]["score"]["kernel"]).max() > 1e-3
    np.testing.assert_array_equal(by_features[~MASK], 0)
    assert np.abs(by_features[MASK]).max(-1).min() > 1e-5


def test_bfloat16_keeps_its_type(params, merged):
    tokens = Tokens(jnp.asarray(FEATURES, jnp.bfloat16), jnp.asarray(MASK))
    got = jax.jit(TokenMerge(CLUSTERS, HEADS, jnp.bfloat16).apply)(params, tokens).tokens
    assert got.features.dtype == jnp.bfloat16
    # Clusters are decided by rounded features; rows whose decision is the same agree to 8 bits.
    error = np.abs(got.features.astype(jnp.float32) - merged.features).max(axis=(1, 2))
    assert error[0] < 0.05 * np.abs(merged.features).max()


def test_too_many_clusters_are_named(params):
    with pytest.raises(ValueError, match=r"num_clusters=3 of 2 tokens is impossible; use 1 to 2"):
        jax.eval_shape(MODEL.apply, params, Tokens(jnp.zeros((1, 2, WIDTH)), jnp.ones((1, 2), bool)))


def test_published_padding_reaches_its_neighbour_and_counts_afterwards(params, merged):
    """Through the convolution; where nothing is padded, nothing changes; every merged token is real."""
    published = jax.jit(TokenMerge(CLUSTERS, HEADS, padding="published").apply)
    got = published(params, Tokens(FEATURES, MASK)).tokens
    assert got.mask.all()
    np.testing.assert_allclose(got.features[0], merged.features[0], atol=1e-6)
    assert np.abs(got.features[1] - merged.features[1]).max() > 1e-2
    zeroed = published(params, Tokens(np.where(MASK[..., None], FEATURES, 0), MASK)).tokens
    np.testing.assert_allclose(zeroed.features, merged.features, atol=1e-6)
