"""Dual softmax and querybank: hand-worked, against the formulas as printed, and what they must keep."""

import numpy as np
import pytest

from hbi_jax.metrics import dual_softmax, querybank, retrieval_metrics

# Video 0 is a hub: the best of both texts, although text 1 belongs to video 1.
HUB = np.array([[0.9, 0.2], [0.6, 0.5]])


def random(*shape, low=-1.0):
    return np.random.default_rng(0).uniform(low, 1.0, shape)


def test_dual_softmax_by_hand():
    """At this temperature a similarity of 0.25 more weighs three times as much."""
    similarity = np.array([[0.5, 0.0], [0.25, 0.5]])
    found = dual_softmax(similarity, temperature=0.25 / np.log(3))
    # Column 0: 3^2 and 3^1, shares 3/4 and 1/4; column 1: 3^0 and 3^2, shares 1/10 and 9/10.
    np.testing.assert_allclose(found.t2v, [[0.5 * 3 / 4, 0.0], [0.25 / 4, 0.5 * 9 / 10]])
    # Row 0: 3^2 and 3^0, shares 9/10 and 1/10; row 1: 3^1 and 3^2, shares 1/4 and 3/4.
    np.testing.assert_allclose(found.v2t, [[0.5 * 9 / 10, 0.0], [0.25 / 4, 0.5 * 3 / 4]])


def test_dual_softmax_is_the_published_product_of_positive_similarities():
    similarity = random(7, 5, low=0.05)
    weights = np.exp(100 * similarity)
    found = dual_softmax(similarity)
    np.testing.assert_allclose(found.t2v, similarity * weights / weights.sum(axis=0))
    np.testing.assert_allclose(found.v2t, similarity * weights / weights.sum(axis=1, keepdims=True))


def test_querybank_by_hand():
    """Both queries have the hub for their best; only text 1 loses it."""
    bank = np.array([[0.8, 0.1], [0.8, 0.3]])
    found = querybank(HUB, bank, np.array([[0.1], [0.2]]), temperature=0.1)
    # The two texts of the bank are equally close to video 0: 0.8 + 0.1 ln 2. Of video 1: 0.1 ln(e^1 + e^3).
    closeness = [0.8 + 0.1 * np.log(2), 0.1 * np.log(np.e + np.e**3)]
    np.testing.assert_allclose(found.t2v, HUB - closeness)
    np.testing.assert_array_equal(found.t2v.argmax(axis=1), [0, 1])
    # One video in the bank, closest to text 1, which is the best text of video 1 alone.
    np.testing.assert_allclose(found.v2t[:, 0], HUB[:, 0])
    np.testing.assert_allclose(found.v2t[:, 1], HUB[:, 1] - [0.1, 0.2])


def test_querybank_ranks_like_the_published_quotient():
    similarity, texts, videos = random(8, 6), random(9, 6), random(8, 4)
    found = querybank(similarity, texts, videos)
    hubs = set(texts.argmax(axis=1))
    assert hubs < set(range(6))
    for query, row in zip(similarity, found.t2v, strict=True):
        wanted = np.exp(20 * query) / np.exp(20 * texts).sum(axis=0) if query.argmax() in hubs else query
        np.testing.assert_array_equal(np.argsort(row), np.argsort(wanted))


def test_a_query_whose_best_is_no_hub_stays_as_it_is():
    bank = np.array([[0.1, 0.9], [0.2, 0.8]])
    similarity = np.array([[0.9, 0.2], [0.1, 0.3]])
    found = querybank(similarity, bank, similarity)
    np.testing.assert_array_equal(found.t2v[0], similarity[0])
    assert np.all(found.t2v[1] != similarity[1])


def test_more_similar_is_never_worse():
    """Negative similarities included: a pair that becomes more similar gets a higher score in both directions."""
    similarity = random(6, 6)
    before = dual_softmax(similarity, 0.1)
    for a, b in np.ndindex(similarity.shape):
        raised = similarity.copy()
        raised[a, b] += 0.05
        after = dual_softmax(raised, 0.1)
        assert after.t2v[a, b] > before.t2v[a, b]
        assert after.v2t[a, b] > before.v2t[a, b]


def test_directions_are_mirrored():
    similarity, texts, videos = random(6, 7), random(5, 7), random(6, 4)
    for found, turned in (
        (dual_softmax(similarity), dual_softmax(similarity.T)),
        (querybank(similarity, texts, videos), querybank(similarity.T, videos.T, texts.T)),
    ):
        np.testing.assert_allclose(found.v2t, turned.t2v.T)
        np.testing.assert_allclose(found.t2v, turned.v2t.T)


def test_the_order_of_queries_and_candidates_does_not_matter():
    similarity, texts, videos = random(6, 7), random(5, 7), random(6, 4)
    a, b = np.random.default_rng(1).permutation(6), np.random.default_rng(2).permutation(7)
    for found, shuffled in (
        (dual_softmax(similarity), dual_softmax(similarity[a][:, b])),
        (querybank(similarity, texts, videos), querybank(similarity[a][:, b], texts[::-1, b], videos[a, ::-1])),
    ):
        np.testing.assert_allclose(shuffled.t2v, found.t2v[a][:, b])
        np.testing.assert_allclose(shuffled.v2t, found.v2t[a][:, b])


def test_single_precision_and_low_temperatures_stay_finite():
    similarity = np.float32(random(5, 5))
    for found in (dual_softmax(similarity, 1e-4), querybank(similarity, similarity, similarity, 1e-4)):
        assert all(np.isfinite(scores).all() for scores in found)


def test_a_hub_is_overcome():
    """The point of both: video 0 is close to every text, and the plain ranks of the others suffer."""
    similarity = np.where(np.eye(8, dtype=bool), 0.5, 0.3)
    similarity[:, 0] = 0.6
    similarity[0, 0] = 0.7
    assert retrieval_metrics(similarity, np.arange(8))["t2v"]["R@1"] == 12.5
    for found in (dual_softmax(similarity), querybank(similarity, similarity, similarity)):
        assert retrieval_metrics(found.t2v, np.arange(8))["t2v"]["R@1"] == 100.0


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="temperature=0"):
        dual_softmax(HUB, 0.0)
    with pytest.raises(ValueError, match="temperature=-1"):
        querybank(HUB, HUB, HUB, -1.0)
    with pytest.raises(ValueError, match="0 texts and 2 videos"):
        querybank(HUB, HUB[:0], HUB)
