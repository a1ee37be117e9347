"""Pointing: mass and AUC by hand, which words count, and the table."""

import numpy as np
import pytest

from hbi_jax.data.text import Tokenizer
from hbi_jax.tasks.retrieval.pointing import WordTruth, point, tables, word_of_tokens

WORDS = ["a", "turquoise", "star", "spins", "then"]
TOKENS = ["a", "turqu", "oise", "star", ",", "spins", "then", "."]
T, F = True, False
FRAMES = np.array([[F, F, F, F], [T, T, F, F], [T, T, T, T], [F, F, F, T], [F, F, F, F]])
TRUTH = WordTruth(WORDS, ["", "color", "shape", "action", ""], FRAMES)


def test_tokens_belong_to_words():
    assert word_of_tokens(TOKENS, WORDS).tolist() == [0, 1, 1, 2, -1, 3, 4, -1]
    # A word that was cut has no token; what follows the last word belongs to none.
    assert word_of_tokens(TOKENS[:2], WORDS).tolist() == [0, -1]
    assert word_of_tokens(["a", "b"], ["a"]).tolist() == [0, -1]
    np.testing.assert_array_equal(TRUTH.of_tokens(TOKENS)[[1, 2, 5]], FRAMES[[1, 1, 3]])
    assert not TRUTH.of_tokens(TOKENS)[[0, 4, 7]].any()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Five o'clock, a red ball", [0, 1, -1, 1, -1, 2, 3, 4]),
        ("the rock'n'roll band plays", [0, 1, -1, 1, -1, 1, 2, 3]),
        ("a 日本 red ball", [0, -1, -1, -1, 2, 3]),
        ("No. 5, 5 balls", [0, -1, 1, -1, 2, 3]),
    ],
)
def test_signs_within_words_shift_no_other_word(text, numbers):
    """Tokens of the real tokenizer; single bytes of a character are no text."""
    tokenizer = Tokenizer(32)
    token_ids, mask = tokenizer.encode([text])
    tokens = [tokenizer.decode([token]) for token in token_ids[mask][1:-1].tolist()]
    words = [word.strip(".,") for word in text.split()]
    assert word_of_tokens(tokens, words).tolist() == numbers


def test_mass_and_auc_by_hand():
    values = np.full((8, 4), 9.0)
    values[1], values[2] = [1.0, -3.0, 0.5, 0.0], [2.0, 0.0, 0.5, -1.0]  # together 3, -3, 1, -1
    values[5] = [0.25, -1.0, 0.5, 0.5]
    color, action = point(values, TOKENS, TRUTH, 7)
    assert (color.role, action.role, color.video, color.uniform, action.uniform) == ("color", "action", 7, 0.5, 0.25)
    assert color.mass == pytest.approx(3 / 4)
    assert color.auc == pytest.approx(2 / 4)  # 3 above both false ones, -3 above none
    assert action.mass == pytest.approx(0.5 / 1.25)
    assert action.auc == pytest.approx(2.5 / 3)


def test_a_word_without_positive_values_counts_as_uniform():
    color, action = point(np.full((8, 4), -1.0), TOKENS, TRUTH, 0)
    assert (color.mass, color.auc, action.mass, action.auc) == (0.5, 0.5, 0.25, 0.5)


def test_a_word_that_was_cut_off_is_left_out():
    (color,) = point(np.ones((3, 4)), TOKENS[:3], TRUTH, 0)
    assert color.role == "color"


def test_the_table_has_a_row_for_each_method_and_role():
    rng = np.random.default_rng(0)
    words = {
        name: [word for video in range(40) for word in point(rng.normal(size=(8, 4)), TOKENS, TRUTH, video)]
        for name in ("interaction", "similarity")
    }
    (table,) = tables("pointing", words)
    names = [row.method for row in table.rows]
    assert names == [f"{method}: {role}" for method in words for role in ("action", "color", "all words")]
    mass, low, high, uniform, auc, count = table.rows[1].values
    masses = [word.mass for word in words["interaction"] if word.role == "color"]
    assert (uniform, count) == (50, 40)
    assert mass == pytest.approx(100 * np.mean(masses))
    assert auc == pytest.approx(np.mean([word.auc for word in words["interaction"] if word.role == "color"]))
    # The interval of a mean of independent words: about two standard errors on either side.
    assert (high - low) / 2 == pytest.approx(1.96 * 100 * np.std(masses) / np.sqrt(40), rel=0.15)
    assert f"color **{mass:.1f} %** (uniform 50.0 %)" in table.headline
    assert tables("pointing", {name: list(found) for name, found in words.items()}) == [table]


def test_words_of_one_video_are_resampled_together():
    """Ten equal words of a video tell no more than one."""
    one = [word for video in range(20) for word in point(np.eye(8, 4) * video % 3, TOKENS, TRUTH, video)]
    (alone,), (repeated,) = (tables("pointing", {"interaction": found}) for found in (one, 10 * one))
    for row, other in zip(alone.rows, repeated.rows, strict=True):
        np.testing.assert_allclose(row.values[:5], other.values[:5])


def test_no_table_without_words():
    assert tables("pointing", {"interaction": [], "similarity": []}) == []
