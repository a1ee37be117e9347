"""Teachers: what they say, what they depend on, and that nothing is learnt through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.models.similarity import pair_similarity
from hbi_jax.parallel.mesh import batch_sharding, make_mesh
from hbi_jax.train.teacher import estimator_teacher, exact_teacher, sampled_teacher, standardized
from hbi_jax.types import Alignment, WeightedTokens
from tests.tiny_hbi import random_params

ROWS, WORDS, FRAMES = 8, 4, 3
KEY = jax.random.key(0)
NET = InteractionNet("cnn_sa", 4)


def tokens(seed, count, rows=ROWS):
    rng = np.random.default_rng(seed)
    mask = np.arange(count) < np.resize([count, count - 1], rows)[:, None]
    features, logits = rng.normal(size=(rows, count, 6)), rng.normal(size=(rows, count))
    return WeightedTokens(jnp.asarray(features, jnp.float32), jnp.asarray(mask), jnp.asarray(logits, jnp.float32))


@pytest.fixture(scope="module")
def alignment():
    text, video = tokens(0, WORDS), tokens(1, FRAMES)
    cells = pair_similarity(text, video)
    return Alignment(jnp.zeros((ROWS, ROWS)), cells, cells, text, video)


@pytest.fixture(scope="module")
def net_params():
    return random_params(NET, jnp.zeros((1, WORDS, FRAMES)))


def test_sampling_comes_near_the_exact_interaction_and_draws_anew_with_every_key(alignment):
    exact = exact_teacher(10.0)(alignment, KEY)
    teach = jax.jit(sampled_teacher(10.0, 4096))
    first, again, other = (np.asarray(teach(alignment, key)) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    spread = np.abs(np.asarray(exact)).max()
    for sample in (first, other):
        assert np.abs(sample - exact).max() < 0.5 * spread
    # More samples, less error.
    few = np.asarray(jax.jit(sampled_teacher(10.0, 16))(alignment, KEY))
    assert np.square(few - exact).mean() > 10 * np.square(first - exact).mean()
    padded = ~(np.asarray(alignment.text.mask)[:, :, None] & np.asarray(alignment.video.mask)[:, None, :])
    assert not first[padded].any()


def test_samples_do_not_depend_on_the_devices(alignment):
    teach = sampled_teacher(10.0, 64)
    found = []
    for count in (1, 8):
        mesh = make_mesh(count, 1, jax.devices()[:count])
        rows = batch_sharding(mesh)
        spread = jax.tree.map(lambda x: jax.device_put(x, rows), alignment)  # noqa: B023
        key = jax.device_put(KEY, NamedSharding(mesh, PartitionSpec()))
        found.append(np.asarray(jax.jit(teach, out_shardings=rows)(spread, key)))
    # The same coalitions; sums over another number of rows round otherwise.
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_standardized_logits_have_one_spread_whatever_the_game(alignment):
    """Mean 0, deviation 1 / temperature over the real cells; neither the scale nor an offset of the teacher counts."""
    cells = np.asarray(alignment.text.mask)[:, :, None] & np.asarray(alignment.video.mask)[:, None, :]
    exact = np.asarray(exact_teacher(1.0)(alignment, KEY))
    wanted = np.zeros_like(exact)
    for row, real in enumerate(cells):
        wanted[row][real] = (exact[row][real] - exact[row][real].mean()) / (0.5 * exact[row][real].std())
    got = standardized(exact_teacher(1.0), 0.5)(alignment, KEY)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    other = standardized(lambda *game: 3.0 + exact_teacher(70.0)(*game), 0.5)(alignment, KEY)
    np.testing.assert_allclose(other, wanted, rtol=1e-3, atol=1e-4)


def test_standardized_logits_of_equal_or_no_interactions_are_zero(alignment):
    none = alignment._replace(text=alignment.text._replace(mask=jnp.zeros_like(alignment.text.mask)))
    for game in (alignment, none):
        # The mean of many 0.1 is none of them: rounding is not scaled to a difference.
        for value in (0.25, 0.1, -0.7):
            got = standardized(lambda game, key, value=value: jnp.full_like(game.pair_similarity, value), 1.0)(
                game, KEY
            )
            np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize("padding", ["masked", "published"])
def test_the_estimator_sees_padding_as_the_model_does(alignment, net_params, padding):
    got = estimator_teacher(NET, net_params, padding)(alignment, KEY)
    cells = alignment.text.mask[:, :, None] & alignment.video.mask[:, None, :]
    wanted = NET.apply(net_params, alignment.pair_similarity, cells if padding == "masked" else None)
    np.testing.assert_array_equal(got, wanted)
    assert bool(jnp.any(jnp.where(cells, 0, got))) == (padding == "published")


@pytest.mark.parametrize("name", ["sampled", "estimator"])
def test_nothing_is_learnt_through_a_teacher(alignment, net_params, name):
    teach = {"sampled": sampled_teacher(1.0, 8), "estimator": estimator_teacher(NET, net_params)}[name]

    @jax.jit
    def gradient(similarity, logits):
        def total(similarity, logits):
            changed = alignment._replace(pair_similarity=similarity, text=alignment.text._replace(logits=logits))
            return jnp.sum(teach(changed, KEY) ** 2)

        return jax.grad(total, (0, 1))(similarity, logits)

    for leaf in gradient(alignment.pair_similarity, alignment.text.logits):
        assert not np.asarray(leaf).any()
