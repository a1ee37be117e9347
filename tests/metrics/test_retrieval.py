"""Ranks and recalls: hand-worked, against the golden file, ties, several captions, groups."""

import pathlib

import numpy as np
import pytest

from hbi_jax.metrics import (
    chance_metrics,
    group_accuracy,
    group_chance,
    ranks,
    retrieval_metrics,
    summarize,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "retrieval_metrics.npz"
KEYS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")


def test_golden_file_is_reproduced():
    golden = np.load(GOLDEN)
    metrics = retrieval_metrics(golden["sim"], np.arange(len(golden["sim"])))
    for direction in ("t2v", "v2t"):
        np.testing.assert_allclose([metrics[direction][key] for key in KEYS], golden[direction], rtol=1e-12)
    assert metrics["Rsum"] == pytest.approx(golden["t2v"][:3].sum() + golden["v2t"][:3].sum())


def test_ranks_by_hand():
    similarity = np.array([[0.9, 0.1, 0.5], [0.8, 0.3, 0.7], [0.2, 0.6, 0.4]])
    np.testing.assert_array_equal(ranks(similarity, np.array([0, 1, 2])), [1, 3, 2])
    np.testing.assert_array_equal(ranks(similarity, np.array([1, 0, 1])), [3, 1, 1])


def test_ties_count_against_the_query():
    similarity = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [-np.inf, 0.5, 0.2]])
    np.testing.assert_array_equal(ranks(similarity, np.array([0, 1, 2])), [2, 3, 2])
    # A model that cannot tell anything apart has no recall, not full recall.
    flat = retrieval_metrics(np.zeros((20, 20)), np.arange(20))
    assert flat["t2v"] == flat["v2t"]
    assert flat["t2v"] == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0, "R@50": 100.0, "MdR": 20.0, "MnR": 20.0}
    assert flat["Rsum"] == 0.0


def test_ranks_equal_the_place_in_a_sorted_list():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(30, 40)).astype(np.float32)
    target = rng.integers(0, 40, 30)
    order = np.argsort(-similarity, axis=1)
    places = [1 + list(row).index(column) for row, column in zip(order, target, strict=True)]
    np.testing.assert_array_equal(ranks(similarity, target), places)


def test_summary_by_hand():
    expected = {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "R@50": 75.0, "MdR": 7.5, "MnR": 21.75}
    assert summarize(np.array([1, 5, 10, 71])) == expected
    assert summarize(np.array([50, 51]))["R@50"] == 50.0


# Texts 0, 1 and 2 describe video 0; text 3 video 1; text 4 video 2.
OWNERS = np.array([0, 0, 0, 1, 2])
SEVERAL = np.array(
    [
        [0.5, 0.8, 0.1],
        [0.9, 0.9, 0.2],
        [0.1, 0.7, 0.3],
        [0.6, 0.6, 0.4],
        [0.2, 0.1, 0.0],
    ]
)


def test_several_captions_by_hand():
    metrics = retrieval_metrics(SEVERAL, OWNERS, group_captions=False)
    # Texts: 0.5 below 0.8 -> 2; 0.9 tied -> 2; 0.1 last -> 3; 0.6 tied -> 2; 0.0 last -> 3.
    assert metrics["t2v"]["MnR"] == pytest.approx(12 / 5)
    assert metrics["t2v"]["R@1"] == 0.0
    # Video 0: its 0.9 is best -> 1. Video 1: three foreign captions above 0.6 -> 4. Video 2: last -> 5.
    assert metrics["v2t"]["MnR"] == pytest.approx(10 / 3)
    assert metrics["v2t"]["R@1"] == pytest.approx(100 / 3)
    # Grouped, video 0's three captions are one candidate: ranks 1, 2, 3.
    grouped = retrieval_metrics(SEVERAL, OWNERS)
    assert grouped["v2t"]["MnR"] == pytest.approx(2.0)
    assert grouped["v2t"]["R@1"] == metrics["v2t"]["R@1"]
    assert grouped["t2v"] == metrics["t2v"]


def test_own_captions_do_not_compete_with_each_other():
    similarity = np.array([[0.7, 0.0], [0.7, 0.0], [0.7, 0.0], [0.1, 0.9]])
    for group_captions in (False, True):
        metrics = retrieval_metrics(similarity, np.array([0, 0, 0, 1]), group_captions=group_captions)
        assert metrics["v2t"]["R@1"] == 100.0


def test_one_caption_a_video_is_the_plain_thing_in_any_order():
    rng = np.random.default_rng(1)
    similarity = rng.normal(size=(25, 25))
    plain = retrieval_metrics(similarity, np.arange(25))
    np.testing.assert_allclose(plain["v2t"]["MnR"], ranks(similarity.T, np.arange(25)).mean())
    assert retrieval_metrics(similarity, np.arange(25), group_captions=False) == plain
    order = rng.permutation(25)
    assert retrieval_metrics(similarity[order], order) == plain


def test_chance_is_the_mean_over_random_orders():
    chance = chance_metrics(200)
    assert chance["t2v"]["R@1"] == 0.5
    assert chance["v2t"]["R@10"] == 5.0
    assert chance["t2v"]["MdR"] == chance["t2v"]["MnR"] == 100.5
    assert chance["Rsum"] == pytest.approx(16.0)
    assert chance_metrics(20)["t2v"]["R@50"] == 100.0
    rng = np.random.default_rng(2)
    drawn = [retrieval_metrics(rng.normal(size=(20, 20)), np.arange(20))["t2v"]["R@5"] for _ in range(400)]
    # Standard deviation of one draw is about 9.7, of the mean of 400 about 0.5.
    assert np.mean(drawn) == pytest.approx(chance_metrics(20)["t2v"]["R@5"], abs=2.0)


def test_group_accuracy_by_hand():
    groups = np.array([7, 7, 3, 3, 3])
    similarity = np.array(
        [
            [0.5, 0.4, 0.9, 0.9, 0.9],  # best of its group; other groups do not matter
            [0.6, 0.5, 0.0, 0.0, 0.0],  # its twin scores more
            [0.0, 0.0, 0.3, 0.3, 0.1],  # tied with a twin: wrong
            [0.0, 0.0, 0.1, 0.2, 0.0],  # right
            [0.9, 0.9, 0.1, 0.2, 0.3],  # right
        ]
    )
    assert group_accuracy(similarity, np.arange(5), groups) == pytest.approx(60.0)
    assert group_chance(np.arange(5), groups) == pytest.approx(100 * (1 / 2 + 1 / 2 + 1 / 3 + 1 / 3 + 1 / 3) / 5)
    assert group_chance(np.arange(20), np.repeat(np.arange(5), 4)) == pytest.approx(25.0)
    assert group_accuracy(np.zeros((8, 8)), np.arange(8), np.repeat([0, 1], 4)) == 0.0


def test_other_captions_of_the_right_video_are_no_rivals():
    """Two captions of the first video, one of its near-twin: the second caption finds the twin."""
    similarity = np.array([[0.9, 0.1], [0.2, 0.3], [0.4, 0.8]])
    text_to_video, groups = np.array([0, 0, 1]), np.zeros(3, int)
    assert group_accuracy(similarity, text_to_video, groups) == pytest.approx(200 / 3)
    assert group_chance(text_to_video, groups) == pytest.approx(50.0)


def test_bad_input_is_refused():
    similarity = np.zeros((3, 3))
    with_nan = similarity.copy()
    with_nan[1, 2] = np.nan
    for call in (
        lambda: ranks(with_nan, np.arange(3)),
        lambda: retrieval_metrics(with_nan, np.arange(3)),
        lambda: group_accuracy(with_nan, np.arange(3), np.arange(3)),
    ):
        with pytest.raises(ValueError, match=r"1 NaN of 9 scores \(the first at \[1, 2\]\)"):
            call()
    with pytest.raises(ValueError, match=r"target\[1\]=-1 is not a column"):
        ranks(similarity, np.array([0, -1, 2]))
    with pytest.raises(ValueError, match=r"target\[2\]=3 is not a column"):
        ranks(similarity, np.array([0, 1, 3]))
    with pytest.raises(ValueError, match=r"no text for 1 of 3 videos \(the first is column 1\)"):
        retrieval_metrics(similarity, np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="0 queries"):
        summarize(np.array([], int))
    with pytest.raises(ValueError, match="0 rows"):
        group_chance(np.array([], int), np.array([], int))
