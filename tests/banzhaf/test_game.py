"""The payoff against hand-made numbers, and enumeration against the definition as a sum over subsets."""

import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import banzhaf

ALL = jnp.ones(2, bool)
SIMILARITY = jnp.asarray([[0.8, -0.2], [0.1, 0.5]])
LOGITS = jnp.log(jnp.asarray([3.0, 1.0]))


def test_coalition_value_by_hand():
    # Words: 3/4 * 0.8 + 1/4 * 0.5; frames with equal weights: (0.8 + 0.5) / 2.
    value = banzhaf.coalition_value(SIMILARITY, LOGITS, jnp.zeros(2), ALL, ALL)
    np.testing.assert_allclose(value, 0.5 * (0.725 + 0.65), rtol=1e-6)
    # Without the first word the second has all the weight, and frames can match nothing else.
    value = banzhaf.coalition_value(SIMILARITY, LOGITS, jnp.zeros(2), jnp.asarray([False, True]), ALL)
    np.testing.assert_allclose(value, 0.5 * (0.5 + (0.1 + 0.5) / 2), rtol=1e-6)
    # A negative best match stays negative: what is absent is not a zero to fall back on.
    value = banzhaf.coalition_value(
        SIMILARITY, LOGITS, jnp.zeros(2), jnp.asarray([True, False]), jnp.asarray([False, True])
    )
    np.testing.assert_allclose(value, -0.2, rtol=1e-6)


@pytest.mark.parametrize(("text_in", "video_in"), [([False] * 2, [True] * 2), ([True] * 2, [False] * 2)])
def test_empty_side_is_worth_nothing_and_has_finite_gradients(text_in, video_in):
    sides = jnp.asarray(text_in), jnp.asarray(video_in)
    value, gradients = jax.value_and_grad(banzhaf.coalition_value, (0, 1, 2))(SIMILARITY, LOGITS, LOGITS, *sides)
    assert value == 0
    assert all(bool(jnp.all(gradient == 0)) for gradient in gradients)


def test_what_absent_tokens_hold_is_not_read():
    """Whatever it is, values and gradients are those of the coalition alone."""
    similarity = jnp.full((3, 3), jnp.nan).at[:2, :2].set(SIMILARITY)
    logits = jnp.asarray([*LOGITS.tolist(), jnp.inf])
    present = jnp.asarray([True, True, False])
    payoff = jax.value_and_grad(banzhaf.coalition_value, (0, 1, 2))
    value, gradients = payoff(similarity, logits, logits, present, present)
    wanted, wanted_gradients = payoff(SIMILARITY, LOGITS, LOGITS, ALL, ALL)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for got, want in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(got, np.pad(want, (0, 1)), atol=1e-6)


def test_coalition_value_of_far_apart_logits():
    """Each coalition is normalised by its own largest weight: two light tokens still share all of it."""
    logits = jnp.asarray([0.0, -200.0, -200.0 + math.log(3)])
    similarity = jnp.asarray([[1.0], [0.2], [0.6]])
    value = banzhaf.coalition_value(
        similarity, logits, jnp.zeros(1), jnp.asarray([False, True, True]), jnp.ones(1, bool)
    )
    np.testing.assert_allclose(value, 0.5 * (0.25 * 0.2 + 0.75 * 0.6 + 0.6), rtol=1e-5)


def test_coalition_value_takes_integers_and_refuses_masks_for_logits():
    value = inspect.unwrap(banzhaf.coalition_value)
    got = value(jnp.asarray([[1, 0], [3, 2]]), jnp.asarray([1, 2]), jnp.asarray([0, 3]), ALL, ALL)
    want = banzhaf.coalition_value(
        jnp.asarray([[1.0, 0.0], [3.0, 2.0]]), jnp.asarray([1.0, 2.0]), jnp.asarray([0.0, 3.0]), ALL, ALL
    )
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="text_logits has dtype bool; give real numbers"):
        value(SIMILARITY, ALL, LOGITS, ALL, ALL)


def definition(table: dict, num_text: int, num_video: int, weight) -> np.ndarray:
    """Eq. 1 word for word: for each pair a sum over the subsets of the others, weighted by their size."""
    players = range(num_text + num_video)
    result = np.zeros((num_text, num_video))
    for i, j in itertools.product(range(num_text), range(num_text, num_text + num_video)):
        others = [player for player in players if player not in (i, j)]
        for size in range(len(others) + 1):
            for chosen in itertools.combinations(others, size):
                c = frozenset(chosen)
                delta = table[c | {i, j}] - table[c | {i}] - table[c | {j}] + table[c]
                result[i, j - num_text] += weight(size, len(others)) * delta
    return result


def definition_of_values(table: dict, num_players: int, weight) -> np.ndarray:
    """For each player a sum over the subsets of the others of what it adds, weighted by their size."""
    result = np.zeros(num_players)
    for i in range(num_players):
        others = [player for player in range(num_players) if player != i]
        for size in range(len(others) + 1):
            for chosen in itertools.combinations(others, size):
                result[i] += weight(size, len(others)) * (table[frozenset(chosen) | {i}] - table[frozenset(chosen)])
    return result


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({}, lambda size, others: 0.5**others),
        ({"join_probability": 0.2}, lambda size, others: 0.2**size * 0.8 ** (others - size)),
        (
            {"index": "shapley"},
            lambda size, others: math.factorial(size) * math.factorial(others - size) / math.factorial(others + 1),
        ),
    ],
)
def test_enumeration_is_the_definition_on_a_random_game(options, weight):
    num_text, num_video = 2, 3
    values = np.random.default_rng(0).normal(size=(2,) * 5)
    table = {frozenset(np.flatnonzero(bits).tolist()): values[bits] for bits in itertools.product((0, 1), repeat=5)}
    lookup = jnp.asarray(values, jnp.float32)
    payoff = lambda t, v: lookup[tuple(jnp.concatenate([t, v]).astype(int))]  # noqa: E731
    got = banzhaf.enumerate_interactions(payoff, num_text, num_video, **options)
    np.testing.assert_allclose(got, definition(table, num_text, num_video, weight), atol=2e-6)
    got = jnp.concatenate(banzhaf.enumerate_values(payoff, num_text, num_video, **options))
    np.testing.assert_allclose(got, definition_of_values(table, 5, weight), atol=2e-6)


@pytest.mark.parametrize("options", [{}, {"join_probability": 0.9}, {"index": "shapley"}])
def test_additive_game_has_no_interaction_and_pays_each_its_worth(options):
    worth_text, worth_video = jnp.asarray([1.0, -2.0, 3.0]), jnp.asarray([0.5, 4.0])
    payoff = lambda t, v: jnp.sum(t * worth_text) + jnp.sum(v * worth_video)  # noqa: E731
    np.testing.assert_allclose(banzhaf.enumerate_interactions(payoff, 3, 2, **options), 0, atol=2e-6)
    for got, worth in zip(banzhaf.enumerate_values(payoff, 3, 2, **options), (worth_text, worth_video), strict=True):
        np.testing.assert_allclose(got, worth, atol=2e-6)


def test_shapley_values_add_up():
    payoff = lambda t, v: jnp.sin(1.0 + jnp.sum(t) * jnp.sum(v)) + 3.0 * v[1]  # noqa: E731
    values = jnp.concatenate(banzhaf.enumerate_values(payoff, 3, 2, index="shapley"))
    everybody, nobody = (payoff(jnp.full(3, here), jnp.full(2, here)) for here in (True, False))
    np.testing.assert_allclose(jnp.sum(values), everybody - nobody, atol=2e-6)


def test_integer_and_bool_payoffs_are_computed_in_float32():
    got = banzhaf.enumerate_interactions(lambda t, v: t[0] & v[1], 2, 2)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [[0, 1], [0, 0]], atol=1e-6)
    values, _ = banzhaf.enumerate_values(lambda t, v: jnp.sum(t) + 0 * jnp.sum(v), 2, 2)
    np.testing.assert_allclose(values, [1, 1], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"join_probability": 0.9}, {"index": "shapley"}])
def test_game_that_pays_for_one_pair_gives_that_pair_alone(options):
    got = banzhaf.enumerate_interactions(lambda t, v: 7.0 * (t[1] & v[2]), 3, 4, **options)
    want = np.zeros((3, 4))
    want[1, 2] = 7
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_dummy_player_interacts_with_nobody():
    """A player who adds the same to any coalition; the interactions of the others are unmoved."""
    game = lambda t, v: jnp.sin(1.0 + jnp.sum(t[:2] * jnp.asarray([1.0, 2.0])) * jnp.sum(v))  # noqa: E731
    got = banzhaf.enumerate_interactions(lambda t, v: game(t, v) + 5.0 * t[2], 3, 2)
    np.testing.assert_allclose(got[2], 0, atol=5e-6)
    np.testing.assert_allclose(got[:2], banzhaf.enumerate_interactions(game, 2, 2), atol=5e-6)


def test_more_coalitions_than_are_evaluated_at_once():
    """2^14 coalitions take two rounds; all players have to meet for the payoff."""
    got = banzhaf.enumerate_interactions(lambda t, v: 2.0**12 * (jnp.all(t) & jnp.all(v)), 8, 6)
    np.testing.assert_array_equal(got, np.ones((8, 6)))


def test_same_under_jit():
    game = lambda t, v: jnp.sqrt(jnp.sum(t) * 1.0) * jnp.sum(v)  # noqa: E731
    np.testing.assert_allclose(
        jax.jit(lambda: banzhaf.enumerate_interactions(game, 3, 3))(),
        banzhaf.enumerate_interactions(game, 3, 3),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("num_text", "num_video", "options", "message"),
    [
        (0, 3, {}, "num_text=0.*at least one player"),
        (11, 10, {}, "21 players.*fewer players"),
        (2, 2, {"index": "owen"}, "'owen' is unknown; use one of banzhaf, shapley"),
        (2, 2, {"join_probability": 1.0}, "join_probability=1.0 is not strictly between 0 and 1"),
        (2, 2, {"index": "shapley", "join_probability": 0.3}, "no meaning with index='shapley'"),
    ],
)
def test_bad_input(num_text, num_video, options, message):
    for function in (banzhaf.enumerate_interactions, banzhaf.enumerate_values):
        with pytest.raises(ValueError, match=message):
            function(lambda t, v: jnp.sum(t) * 1.0, num_text, num_video, **options)


@pytest.mark.parametrize("payoff", [lambda t, v: t * 1.0, lambda t, v: (jnp.sum(t), jnp.sum(v))])
def test_a_payoff_that_is_no_number_is_refused(payoff):
    with pytest.raises(ValueError, match="let it return one number"):
        banzhaf.enumerate_interactions(payoff, 2, 3)
