"""DPC-KNN against a plain loop over tokens, and its independence of padding, batch, chance and order."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.clustering import Clusters, dpc_knn


def oracle(features: np.ndarray, num_clusters: int, num_neighbors: int) -> tuple[list[int], list[int]]:
    """Assignment and centres of real tokens only, one token after the other."""
    n, d = features.shape
    squared = [[float(((x - y) ** 2).sum()) / d for y in features] for x in features]
    k = min(num_neighbors, n)
    density = [math.exp(-sum(sorted(row)[:k]) / k) for row in squared]
    score = []
    for i in range(n):
        denser = [j for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        reach = min((squared[i][j] for j in denser), default=max(map(max, squared)))
        score.append(density[i] * math.sqrt(reach))
    centers = sorted(range(n), key=lambda i: -score[i])[:num_clusters]  # a stable sort: ties by index
    assignment = []
    for i in range(n):
        if i in centers:
            assignment.append(centers.index(i))
        else:
            assignment.append(min(range(len(centers)), key=lambda c: squared[i][centers[c]]))
    return assignment, centers


def crowds(rng: np.random.Generator, n: int, d: int = 8) -> np.ndarray:
    """Tokens around a few places, some crowded and some not."""
    return (3 * rng.normal(size=(4, d))[rng.integers(4, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "num_clusters", "num_neighbors"), [(24, 6, 3), (12, 3, 3), (9, 1, 5), (7, 7, 1), (2, 1, 3)]
)
def test_equals_the_plain_loop(n, num_clusters, num_neighbors):
    rng = np.random.default_rng(n)
    features = np.stack([crowds(rng, n) for _ in range(6)])
    got = dpc_knn(jnp.asarray(features), jnp.ones((6, n), bool), num_clusters, num_neighbors)
    assert bool(jnp.all(got.mask))
    for row in range(6):
        assignment, centers = oracle(features[row].astype(np.float64), num_clusters, num_neighbors)
        assert got.assignment[row].tolist() == assignment
        assert got.centers[row].tolist() == centers


def test_two_crowds_by_hand():
    """Two groups on a line: each gets the token in its middle as centre, the tighter one first in density."""
    features = jnp.asarray([[0.0], [10.0], [0.1], [10.3], [-0.1], [9.7]])
    got = dpc_knn(features, jnp.ones(6, bool), 2)
    assert got.centers.tolist() == [0, 1]
    assert got.assignment.tolist() == [0, 1, 0, 1, 0, 1]


def test_padding_and_other_rows_change_nothing():
    rng = np.random.default_rng(1)
    reals = (10, 4, 3, 2, 1, 0)
    features = np.full((len(reals), 10, 8), np.nan, np.float32)
    mask = np.zeros((len(reals), 10), bool)
    for row, real in enumerate(reals):
        mask[row, rng.choice(10, real, replace=False)] = True
        features[row, mask[row]] = crowds(rng, real) * 10.0**-row  # of very different scale
    got = dpc_knn(jnp.asarray(features), jnp.asarray(mask), 3)
    for row, real in enumerate(reals):
        assert got.mask[row].tolist() == [cluster < real for cluster in range(3)]
        assert np.all(np.asarray(got.assignment[row])[~mask[row]] == -1)
        if real:
            assignment, centers = oracle(features[row, mask[row]].astype(np.float64), 3, 3)
            position = np.flatnonzero(mask[row])
            assert np.asarray(got.assignment[row])[mask[row]].tolist() == assignment
            assert got.centers[row][: len(centers)].tolist() == position[centers].tolist()
        assert sorted(set(got.assignment[row].tolist()) - {-1}) == list(range(min(real, 3)))


def test_fewer_real_tokens_than_clusters_are_their_own_clusters():
    features = jnp.asarray([[5.0], [0.0], [0.0], [1.0]])
    got = dpc_knn(features, jnp.asarray([True, True, False, True]), 4)
    assert got.mask.tolist() == [True, True, True, False]
    assert [got.centers[c] for c in got.assignment[jnp.asarray([0, 1, 3])]] == [0, 1, 3]
    assert got.assignment[2] == -1


def test_ties_go_to_the_first():
    """Four equal tokens: the first is densest, the rest score 0 and follow by index."""
    got = dpc_knn(jnp.ones((4, 3)), jnp.ones(4, bool), 2)
    assert got.centers.tolist() == [0, 1]
    assert got.assignment.tolist() == [0, 1, 0, 0]  # a centre stays with itself though the first is as near
    # The last token is halfway between the two centres.
    got = dpc_knn(jnp.asarray([[0.0], [2.0], [1.0]]), jnp.ones(3, bool), 2, num_neighbors=1)
    assert got.centers.tolist() == [0, 1]
    assert got.assignment.tolist() == [0, 1, 0]


def test_duplicates_share_a_cluster_unless_they_are_centers():
    rng = np.random.default_rng(2)
    features = crowds(rng, 8)
    features = np.concatenate([features, features])
    got = dpc_knn(jnp.asarray(features), jnp.ones(16, bool), 4)
    assignment, centers = oracle(features.astype(np.float64), 4, 3)
    assert got.assignment.tolist() == assignment
    assert got.centers.tolist() == centers
    assert got.assignment[:8].tolist() == got.assignment[8:].tolist()


def test_order_of_tokens_does_not_matter():
    rng = np.random.default_rng(3)
    features, order = jnp.asarray(crowds(rng, 20)), rng.permutation(20)
    mask = jnp.asarray(rng.uniform(size=20) < 0.8)
    straight, permuted = dpc_knn(features, mask, 5), dpc_knn(features[order], mask[order], 5)
    assert permuted.assignment.tolist() == straight.assignment[order].tolist()
    assert order[np.asarray(permuted.centers)].tolist() == straight.centers.tolist()


def test_jit_vmap_and_batch_axes_agree():
    rng = np.random.default_rng(4)
    features = jnp.asarray(np.stack([crowds(rng, 9) for _ in range(6)]).reshape(2, 3, 9, 8))
    mask = jnp.asarray(rng.uniform(size=(2, 3, 9)) < 0.7)
    cluster = lambda *tokens: dpc_knn(*tokens, 3)  # noqa: E731
    together = cluster(features, mask)
    with jax.disable_jit():
        eager = cluster(features[1, 2], mask[1, 2])
    jax.tree.map(np.testing.assert_array_equal, eager, Clusters(*(x[1, 2] for x in together)))
    for other in (jax.jit(cluster)(features, mask), jax.vmap(cluster)(features, mask)):
        jax.tree.map(np.testing.assert_array_equal, other, together)
    for where in np.ndindex(2, 3):
        single = cluster(features[where], mask[where])
        jax.tree.map(np.testing.assert_array_equal, single, Clusters(*(x[where] for x in together)))


def test_gradient_passes_by_the_clustering():
    """What is pooled by the clusters gets the gradient of fixed clusters, also where tokens are equal."""
    features = jnp.asarray(crowds(np.random.default_rng(5), 9)).at[3].set(0).at[4].set(0)

    def pooled(x):
        clusters = dpc_knn(x, jnp.ones(9, bool), 3)
        return jnp.sum(jax.ops.segment_sum(x, clusters.assignment, 3) * jnp.asarray([[1.0], [2.0], [3.0]]))

    weight = 1.0 + dpc_knn(features, jnp.ones(9, bool), 3).assignment
    np.testing.assert_allclose(jax.grad(pooled)(features), np.repeat(weight[:, None], 8, axis=1))


def test_bfloat16_is_computed_in_float32():
    features = jnp.asarray(crowds(np.random.default_rng(6), 24)).astype(jnp.bfloat16)
    wide = dpc_knn(features.astype(jnp.float32), jnp.ones(24, bool), 6)
    jax.tree.map(np.testing.assert_array_equal, dpc_knn(features, jnp.ones(24, bool), 6), wide)


@pytest.mark.parametrize(
    ("mask", "num_clusters", "num_neighbors", "message"),
    [
        (jnp.ones((2, 5), bool), 6, 3, "num_clusters=6 of 5 tokens is impossible; use 1 to 5"),
        (jnp.ones((2, 5), bool), 0, 3, "num_clusters=0"),
        (jnp.ones((2, 5), bool), 2, 0, "num_neighbors=0.*use 1 or more"),
        (jnp.ones((2, 4), bool), 2, 3, r"mask has shape \(2, 4\).*ask for \(2, 5\)"),
    ],
)
def test_bad_input(mask, num_clusters, num_neighbors, message):
    unchecked = inspect.unwrap(dpc_knn)  # without the shape checks that only tests run with
    with pytest.raises(ValueError, match=message):
        unchecked(jnp.zeros((2, 5, 3)), mask, num_clusters, num_neighbors)
