"""The sampler against the exact interaction: unbiased, with honest errors, the same on any number of devices."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from hbi_jax import banzhaf
from hbi_jax.banzhaf import sampling

KEY = jax.random.key(7)


def similarity_game(*shape: int, seed: int = 0):
    """Similarity and logits of one pair, or of a batch."""
    rng = np.random.default_rng(seed)
    *batch, words, frames = shape
    similarity = rng.uniform(-1, 1, shape)
    return [
        jnp.asarray(x, jnp.float32)
        for x in (similarity, rng.normal(size=(*batch, words)), rng.normal(size=(*batch, frames)))
    ]


def sampled(game, key=KEY, num_samples=4096, **options):
    payoff = functools.partial(banzhaf.coalition_value, *game)
    return banzhaf.sample(payoff, *game[0].shape, key, num_samples, **options)


@pytest.mark.parametrize("join_probability", [0.5, 0.3])
def test_standard_errors_say_how_far_the_exact_interaction_is(join_probability):
    """Over 30 cells and 16 keys, distances in standard errors are as those of a normal variable."""
    game = similarity_game(6, 5)
    runs = jax.jit(jax.vmap(lambda key: sampled(game, key, 1024, join_probability=join_probability)))
    estimate = runs(jax.random.split(KEY, 16))
    exact = banzhaf.interaction(*game, join_probability=join_probability)
    distance = (estimate.interaction - exact[None]) / estimate.standard_error
    assert 0.85 < float(jnp.std(distance)) < 1.15
    assert float(jnp.abs(distance).max()) < 4.5
    # No bias: the mean over keys is four times closer.
    assert float(jnp.abs(jnp.mean(distance, axis=0)).max()) < 4.5 / 4
    np.testing.assert_array_equal(estimate.num_samples, 1024)


@pytest.mark.parametrize("join_probability", [0.5, 0.2])
def test_unbiased_by_enumeration_of_what_can_be_drawn(join_probability):
    """Two pairs of coalitions of one word and one frame: all that can come, weighted by its probability."""
    rng = np.random.default_rng(0)
    table, q = rng.normal(size=(2, 2)), join_probability
    plays = jnp.ones(2, bool)
    # A uniform variable u joins a player to the first coalition if u < q, to the second if u >= 1 - q.
    outcomes = [(min(q, 1 - q), (True, False)), (min(q, 1 - q), (False, True)), (abs(1 - 2 * q), (q > 0.5,) * 2)]
    moments = jax.jit(lambda *drawn: sampling._moments(*drawn, plays, 1, q)[0])
    mean = 0
    for drawn in itertools.product(outcomes, repeat=4):  # pair 1: word, frame; pair 2: word, frame
        joins = np.asarray([outcome for _, outcome in drawn]).reshape(2, 2, 2).swapaxes(1, 2)
        values = table[joins[..., 0].astype(int), joins[..., 1].astype(int)]
        mean += np.prod([p for p, _ in drawn]) * np.asarray(
            moments(jnp.asarray(values, jnp.float32), jnp.asarray(joins))
        )
    np.testing.assert_allclose(mean, [[table[1, 1] - table[1, 0] - table[0, 1] + table[0, 0]]], rtol=1e-5)


def test_moments_are_mean_and_square_of_what_each_pair_says():
    rng = np.random.default_rng(0)
    values, joins = rng.normal(size=(6, 2)), rng.uniform(size=(6, 2, 5)) < 0.3
    score = np.where(joins, 1 / 0.3, -1 / 0.7) * np.asarray([1, 1, 0, 1, 1])
    says = np.zeros((6, 3, 2))
    for p, k in itertools.product(range(6), range(2)):
        centre = np.delete(values, p, axis=0).mean()
        says[p] += 0.5 * (values[p, k] - centre) * np.outer(score[p, k, :3], score[p, k, 3:])
    plays = jnp.asarray([True, True, False, True, True])
    first, second = sampling._moments(jnp.asarray(values, jnp.float32), jnp.asarray(joins), plays, 3, 0.3)
    np.testing.assert_allclose(first, says.mean(0), atol=1e-4)
    np.testing.assert_allclose(second, (says**2).mean(0), rtol=1e-4)


def test_a_constant_payoff_has_no_error():
    estimate = banzhaf.sample(lambda t, v: 3.0 + 0 * jnp.sum(t), 3, 4, KEY, 256)
    np.testing.assert_array_equal(estimate.interaction, 0)
    np.testing.assert_array_equal(estimate.standard_error, 0)


def test_an_additive_payoff_has_no_error_with_fair_coins():
    """What opposites take out: the worth of single players."""
    worth = jnp.asarray([1.0, -2.0, 4.0])
    estimate = banzhaf.sample(lambda t, v: jnp.sum(t * worth) - jnp.sum(v * worth), 3, 3, KEY, 256)
    np.testing.assert_allclose(estimate.interaction, 0, atol=1e-5)
    np.testing.assert_allclose(estimate.standard_error, 0, atol=1e-5)


def test_any_payoff_agrees_with_enumeration():
    table = jnp.asarray(np.random.default_rng(1).normal(size=(2,) * 5), jnp.float32)
    payoff = lambda t, v: table[tuple(jnp.concatenate([t, v]).astype(int))]  # noqa: E731
    estimate = banzhaf.sample(payoff, 2, 3, KEY, 8192)
    error = jnp.abs(estimate.interaction - banzhaf.enumerate_interactions(payoff, 2, 3))
    assert bool(jnp.all(error < 4 * estimate.standard_error))
    assert float(estimate.standard_error.max()) < 0.1


# --- masks, batches, devices --------------------------------------------------------------------------------


def test_a_batch_of_masked_games_inside_jit():
    """As a teacher of training would use it; masked players are in no coalition and get zeros."""
    game = similarity_game(3, 5, 4)
    masks = jnp.asarray([[True] * 5, [True] * 3 + [False] * 2, [False] * 5]), jnp.ones((3, 4), bool).at[1, 0].set(False)

    def of_one(similarity, text, video, text_mask, video_mask, key):
        return sampled((similarity, text, video), key, 2048, text_mask=text_mask, video_mask=video_mask)

    estimate = jax.jit(jax.vmap(of_one))(*game, *masks, jax.random.split(KEY, 3))
    exact = banzhaf.interaction(*game, *masks)
    real = masks[0][:, :, None] & masks[1][:, None, :]
    np.testing.assert_array_equal(estimate.interaction[~real], 0)
    np.testing.assert_array_equal(estimate.standard_error[~real], 0)
    error = jnp.abs(estimate.interaction - exact)
    assert bool(jnp.all(error <= 4.5 * estimate.standard_error))
    assert float(estimate.standard_error.max()) < 0.06


def test_a_batch_of_similarity_games_is_sampled_row_by_row():
    """Each row by its own key; what padding holds is not read."""
    game = similarity_game(2, 5, 4)
    masks = jnp.asarray([[True] * 5, [True] * 3 + [False] * 2]), jnp.ones((2, 4), bool)
    padded = game[0].at[1, 3:].set(jnp.nan), *game[1:]
    got = banzhaf.sample_similarity(*padded, *masks, KEY, 1000)
    for row in range(2):
        key, (words, frames) = jax.random.fold_in(KEY, row), (mask[row] for mask in masks)
        wanted = sampled([x[row] for x in game], key, 1000, chunk_size=252, text_mask=words, video_mask=frames)
        np.testing.assert_allclose(got[row], wanted.interaction, atol=1e-5)
        assert bool(jnp.all(jnp.any(got[row] != 0, axis=1) == words))


@pytest.mark.eight_devices
def test_one_device_is_eight_devices(fused):
    game = similarity_game(6, 5)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    one = functools.partial(sampled, game, num_samples=1000)
    many = functools.partial(one, mesh=mesh)
    wanted = one(KEY)
    jax.tree.map(np.testing.assert_array_equal, many(KEY), wanted)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(many)(KEY), wanted)
    keys = jax.random.split(KEY, 2)
    jax.tree.map(np.testing.assert_array_equal, jax.vmap(many)(keys), jax.vmap(one)(keys))


@pytest.mark.eight_devices
def test_payoffs_are_spread_over_the_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    width = 37  # of something that only the payoff has
    weight = jnp.ones((5, width))
    payoff = lambda t, v: jnp.sum(jnp.tanh(t.astype(jnp.float32) @ weight)) * jnp.sum(v)  # noqa: E731
    run = jax.jit(lambda key: banzhaf.sample(payoff, 5, 4, key, 128, chunk_size=128, mesh=mesh))
    program = run.lower(KEY).compile().as_text()
    assert f"[8,2,{width}]" in program or f"[16,{width}]" in program  # 64 pairs over 8 devices
    assert f"[64,2,{width}]" not in program and f"[128,{width}]" not in program  # noqa: PT018


def test_differentiable_in_what_the_payoff_closes_over():
    """The estimate is linear in the payoff, so that gradients are estimates too."""
    slope = lambda a: banzhaf.sample(lambda t, v: a * t[0] * v[1], 2, 2, KEY, 2048).interaction[0, 1]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(slope))(3.0)
    np.testing.assert_allclose(gradient, value / 3, rtol=1e-5)
    np.testing.assert_allclose(gradient, 1, atol=0.1)


def test_the_gradient_of_a_standard_error_of_zero_is_zero(fused):
    def spread(a):
        return jnp.sum(banzhaf.sample(lambda t, v: a + 0.0 * (t[0] & v[0]), 2, 3, KEY, 256).standard_error)

    assert jax.grad(spread)(2.0) == 0


# --- stopping -----------------------------------------------------------------------------------------------


def test_stops_when_the_error_is_small_enough(fused):
    game = similarity_game(6, 5)
    run = jax.jit(lambda wanted: sampled(game, num_samples=100_000, max_standard_error=wanted))
    estimate = run(0.02)
    used = int(estimate.num_samples)
    assert 256 < used < 20_000
    assert float(estimate.standard_error.max()) <= 0.02
    jax.tree.map(np.testing.assert_array_equal, estimate, sampled(game, num_samples=used))
    before = sampled(game, num_samples=used - 256)
    assert float(before.standard_error.max()) > 0.02
    assert int(run(10.0).num_samples) == 256


def test_stops_at_the_number_of_samples_and_each_game_on_its_own():
    game = similarity_game(6, 5)

    def scaled(scale):
        payoff = lambda t, v: scale * banzhaf.coalition_value(*game, t, v)  # noqa: E731
        return banzhaf.sample(payoff, 6, 5, KEY, 1500, max_standard_error=0.05, chunk_size=100)

    estimate = jax.vmap(scaled)(jnp.asarray([0.0, 0.5, 9.0]))
    used = estimate.num_samples.tolist()
    assert used[0] == 100
    assert used[0] < used[1] < used[2] == 1500
    np.testing.assert_allclose(estimate.interaction[1], scaled(0.5).interaction, atol=1e-6)


def test_nan_payoffs_are_not_hidden_and_end_the_run():
    payoff = lambda t, v: jnp.where(t[0] & v[0], jnp.nan, 1.0)  # noqa: E731
    estimate = banzhaf.sample(payoff, 2, 2, KEY, 10_000, max_standard_error=0.1)
    assert bool(jnp.all(jnp.isnan(estimate.interaction)))
    assert int(estimate.num_samples) == 256


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_text": 0}, "num_text=0.*at least one player"),
        ({"num_samples": 0}, "num_samples=0; evaluate at least one"),
        ({"num_samples": 10**13}, "num_samples=10000000000000 in whole chunks exceeds 2147483647; use fewer"),
        ({"chunk_size": 7}, "chunk_size=7; coalitions come in pairs"),
        ({"chunk_size": 2}, "chunk_size=2; coalitions come in pairs"),
        ({"join_probability": 1.0}, "join_probability=1.0 is not strictly between 0 and 1"),
        ({"max_standard_error": 0.0}, "max_standard_error=0.0; use a positive number"),
        ({"max_standard_error": np.float32(-1)}, "max_standard_error=-1.0; use a positive number"),
        ({"max_standard_error": jnp.float32(np.nan)}, "max_standard_error=nan; use a positive number"),
        ({"payoff": lambda t, v: t * 1.0}, "let it return one number"),
    ],
)
def test_bad_input_is_named_with_its_remedy(change, message):
    arguments = {
        "payoff": lambda t, v: 1.0 * t[0],
        "num_text": 2,
        "num_video": 3,
        "key": KEY,
        "num_samples": 8,
    } | change
    with pytest.raises(ValueError, match=message):
        banzhaf.sample(**arguments)


def test_a_batch_of_similarity_games_needs_a_batch_and_samples():
    game, masks = similarity_game(1, 2, 3), (jnp.ones((1, 2), bool), jnp.ones((1, 3), bool))
    with pytest.raises(ValueError, match="num_samples=0; evaluate at least one"):
        banzhaf.sample_similarity(*game, *masks, KEY, 0)
    with pytest.raises(ValueError, match=r"similarity has shape \(2, 3\); give \[pairs, words, frames\]"):
        inspect.unwrap(banzhaf.sample_similarity)(*(x[0] for x in (*game, *masks)), KEY, 8)


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.zeros(2), np.ones((1, 2), bool)])
def test_masks_that_do_not_fit_are_refused(mask):
    with pytest.raises(ValueError, match=r"text_mask has shape .* give bool of shape \(2,\)"):
        sampling._mask.__wrapped__("text_mask", jnp.asarray(mask), 2)


@pytest.mark.eight_devices
def test_a_mesh_that_does_not_divide_the_chunk_is_refused():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"8 devices, which do not divide the 10 pairs.*use chunk_size=32"):
        sampled(similarity_game(2, 2), chunk_size=20, mesh=mesh)
