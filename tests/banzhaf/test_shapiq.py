"""The oracle and the closed forms against shapiq, an independent library of game-theoretic indices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import banzhaf

WORDS, FRAMES = 4, 3


@pytest.fixture(scope="module")
def shapiq():
    """The library. Loading it takes seconds, which the workers that do not run this file need not spend."""
    return pytest.importorskip("shapiq")


@pytest.fixture(scope="module")
def game():
    """Similarity and logits, and the value of every coalition, all in float64."""
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (WORDS, FRAMES)), 3 * rng.normal(size=WORDS), 3 * rng.normal(size=FRAMES)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in inputs]
        coalitions = np.indices((2,) * (WORDS + FRAMES), dtype=bool).reshape(WORDS + FRAMES, -1).T
        payoff = jax.jit(jax.vmap(functools.partial(banzhaf.coalition_value, *arrays)))
        table = np.asarray(payoff(coalitions[:, :WORDS], coalitions[:, WORDS:])).reshape((2,) * (WORDS + FRAMES))
    assert table[(0,) * (WORDS + FRAMES)] == 0
    return inputs, lambda coalitions: table[tuple(np.asarray(coalitions).astype(int).T)]


@pytest.mark.parametrize(
    ("index", "name_of_interaction", "name_of_value"), [("banzhaf", "BII", "BV"), ("shapley", "SII", "SV")]
)
def test_interactions_and_values_agree(shapiq, game, index, name_of_interaction, name_of_value):
    inputs, values = game
    n = WORDS + FRAMES
    computer = shapiq.ExactComputer(n_players=n, game=values)
    pairs = computer(index=name_of_interaction, order=2)
    singles = computer(index=name_of_value, order=1)
    want = (
        np.asarray([[pairs[(i, WORDS + j)] for j in range(FRAMES)] for i in range(WORDS)]),
        np.asarray([singles[(i,)] for i in range(WORDS)]),
        np.asarray([singles[(WORDS + j,)] for j in range(FRAMES)]),
    )
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in inputs]
        payoff = functools.partial(banzhaf.coalition_value, *arrays)
        closed = banzhaf.interaction(*arrays, index=index), *banzhaf.value(*arrays, index=index)
        counted = (
            banzhaf.enumerate_interactions(payoff, WORDS, FRAMES, index=index),
            *banzhaf.enumerate_values(payoff, WORDS, FRAMES, index=index),
        )
    for got, oracle, other in zip(closed, counted, want, strict=True):
        np.testing.assert_allclose(oracle, other, atol=1e-12)
        np.testing.assert_allclose(got, other, atol=1e-9)
        assert np.abs(other).max() > 1e-2
