"""The closed forms against enumeration of all coalitions, and the properties that interactions and values have."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hbi_jax import banzhaf
from hbi_jax.banzhaf import exact, expectation

SHAPES = [(7, 7), (12, 2), (1, 6), (6, 1), (1, 1)]
KINDS = ["random", "tied", "negative", "identical", "one_hot", "spread", "steps", "outlier"]
NAMES = ("interaction", "values of words", "values of frames")
interaction = jax.jit(banzhaf.interaction)


def solved(*inputs, **options):
    """All closed forms: interaction, values of words, values of frames."""
    return banzhaf.interaction(*inputs, **options), *banzhaf.value(*inputs, **options)


jitted = jax.jit(solved, static_argnames=("weights", "index", "join_probability"))


@functools.partial(jax.jit, static_argnames=("index", "join_probability"))
def enumerated(similarity, text_logits, video_logits, text_mask=None, video_mask=None, **options):
    """The same by enumeration. A masked player joins coalitions but changes none, so it touches no other's result."""
    real = [
        jnp.ones(n, bool) if m is None else m for n, m in zip(similarity.shape, (text_mask, video_mask), strict=True)
    ]

    def payoff(text_in, video_in):
        return banzhaf.coalition_value(similarity, text_logits, video_logits, text_in & real[0], video_in & real[1])

    sizes = similarity.shape
    return (
        banzhaf.enumerate_interactions(payoff, *sizes, **options),
        *banzhaf.enumerate_values(payoff, *sizes, **options),
    )


def assert_close(got, want, atol, note=""):
    for name, x, y in zip(NAMES, got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0, err_msg=f"{name} {note}")


def game(kind: str, shape: tuple[int, int], seed: int = 0):
    """Similarity and logits of one pair, float64 numpy."""
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, shape)
    logits = [2 * rng.normal(size=n) for n in shape]
    if kind == "tied":
        similarity = np.round(2 * similarity) / 2
        logits = [np.round(x) for x in logits]
    elif kind == "negative":
        similarity = -np.abs(similarity)
    elif kind == "identical":
        similarity = np.full(shape, 0.3)
        logits = [np.zeros(n) for n in shape]
    elif kind == "one_hot":
        similarity = np.zeros(shape)
        similarity[shape[0] // 2, shape[1] // 2] = 1
    elif kind == "spread":  # weights e^-25 to 1
        logits = [rng.permutation(np.linspace(-20, 5, n)) for n in shape]
    elif kind == "steps":  # two crowds e^25 apart
        logits = [np.where(rng.uniform(size=n) < 0.5, 100.0, 75.0) for n in shape]
    elif kind == "outlier":  # as if masked by a large number
        logits = [np.where(np.arange(n) == n - 1, -1e9, x) for n, x in zip(shape, logits, strict=True)]
    return similarity, *logits


def as_float32(arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_enumeration(shape):
    for kind in KINDS:
        inputs = as_float32(game(kind, shape))
        got = jitted(*inputs)
        assert all(x.dtype == jnp.float32 for x in got)
        assert_close(got, enumerated(*inputs), 1e-5, kind)
        if kind == "random":
            assert all(np.abs(x).max() > 1e-3 for x in got)  # a comparison of zeros would tell nothing


@pytest.mark.parametrize("shape", [(7, 7), (3, 11)])
def test_equals_enumeration_in_float64(shape):
    with jax.enable_x64(True):
        for kind in KINDS:
            inputs = [jnp.asarray(x) for x in game(kind, shape, seed=1)]
            got = jitted(*inputs)
            assert all(x.dtype == jnp.float64 for x in got)
            assert_close(got, enumerated(*inputs), 1e-9, kind)


@pytest.mark.parametrize("options", [{"index": "shapley"}, {"join_probability": 0.05}, {"join_probability": 0.9}])
def test_other_indices_equal_enumeration(options):
    for kind in ("random", "tied", "spread"):
        inputs = as_float32(game(kind, (4, 6)))
        assert_close(jitted(*inputs, **options), enumerated(*inputs, **options), 1e-5, kind)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-2), (np.float64, 1e-4)])
def test_wide_steps_cost_no_more_accuracy_than_documented(dtype, tolerance):
    similarity = game("random", (7, 3))[0].astype(dtype)
    inputs = similarity, -18 * np.arange(7, dtype=dtype), np.zeros(3, dtype)
    with jax.enable_x64(True):
        want = enumerated(*(jnp.asarray(x, jnp.float64) for x in inputs))
    with jax.enable_x64(dtype == np.float64):
        assert_close(jitted(*map(jnp.asarray, inputs)), want, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("index", ["banzhaf", "shapley"])
@pytest.mark.parametrize("shape", [(7, 7), (12, 2), (1, 13)])
def test_equals_enumeration_over_a_sweep_of_games(shape, index):
    """Of every size down to nobody, by masks; weights spread over e^0 to e^25 in any pattern."""

    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(st.integers(0, 10**6), st.floats(0, 25), *(st.sets(st.integers(0, n - 1)) for n in shape))
    def sweep(kind, seed, spread, words_absent, frames_absent):
        similarity, *logits = game(kind, shape, seed)
        if kind != "outlier":
            logits = [x if np.ptp(x) == 0 else spread * (x - x.min()) / np.ptp(x) for x in logits]
        masks = [~np.isin(np.arange(n), list(x)) for n, x in zip(shape, (words_absent, frames_absent), strict=True)]
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
            inputs = [x.astype(dtype) for x in (similarity, *logits)]
            with jax.enable_x64(True):
                want = enumerated(*(jnp.asarray(x, jnp.float64) for x in inputs), *masks, index=index)
            with jax.enable_x64(dtype == np.float64):
                got = jitted(*map(jnp.asarray, inputs), *masks, index=index)
            players = masks[0][:, None] & masks[1], *masks
            assert_close(got, [np.where(real, x, 0) for real, x in zip(players, want, strict=True)], tolerance)

    for kind in KINDS:
        sweep(kind)


@pytest.mark.parametrize("options", [{}, {"index": "shapley"}])
@pytest.mark.parametrize("weights", ["mean", "sum"])
def test_unweighted_games_equal_enumeration(weights, options):
    similarity = jnp.asarray(game("random", (3, 4))[0], jnp.float32)
    lowest = jnp.finfo(jnp.float32).min

    def payoff(text_in, video_in):
        real = text_in[:, None] & video_in[None, :]
        best = jnp.where(real, similarity, lowest)
        words, frames = jnp.where(text_in, best.max(1), 0).sum(), jnp.where(video_in, best.max(0), 0).sum()
        if weights == "mean":
            words, frames = words / text_in.sum(), frames / video_in.sum()
        return jnp.where(jnp.any(real), 0.5 * (words + frames), 0)

    got = solved(similarity, None, None, weights=weights, **options)
    want = banzhaf.enumerate_interactions(payoff, 3, 4, **options), *banzhaf.enumerate_values(payoff, 3, 4, **options)
    assert_close(got, want, 1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_are_those_of_the_similarity(scale):
    similarity, text, video = as_float32(game("random", (4, 6)))
    for got, unscaled in zip(jitted(similarity * scale, text, video), jitted(similarity, text, video), strict=True):
        np.testing.assert_allclose(got / scale, unscaled, atol=1e-6)


def test_two_tokens_by_hand():
    """One word, two frames of equal weight, a > b: from the four coalitions of Eq. 1, written out.

    I_1 = E over {frame 2 absent, present} = 1/2 [a] + 1/2 [(a + (a+b)/2) / 2 - b];  I_2 with a and b
    exchanged in the average but not in the maximum.
    """
    a, b = 0.8, 0.3
    got = banzhaf.interaction(jnp.asarray([[a, b]]), jnp.zeros(1), jnp.zeros(2))
    both = (a + (a + b) / 2) / 2
    np.testing.assert_allclose(got, [[0.5 * a + 0.5 * (both - b), 0.5 * b + 0.5 * (both - a)]], rtol=1e-6)


def test_values_of_two_tokens_by_hand():
    """The same game: the word earns what the frames that are there are worth; a frame only beside the word."""
    a, b = 0.8, 0.3
    words, frames = banzhaf.value(jnp.asarray([[a, b]]), jnp.zeros(1), jnp.zeros(2))
    both = (a + (a + b) / 2) / 2
    np.testing.assert_allclose(words, [(0 + a + b + both) / 4], rtol=1e-6)
    np.testing.assert_allclose(frames, [(a + both - b) / 4, (b + both - a) / 4], rtol=1e-6)


# --- masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 8), (130, 132)])  # ranks by comparison, ranks by sorting
def test_masked_tokens_are_no_players(shape):
    """Values and gradients are those of the game without them, whatever they hold."""
    rng = np.random.default_rng(0)
    masks = [np.isin(np.arange(n), rng.choice(n, real, replace=False)) for n, real in zip(shape, (5, 4), strict=True)]
    chosen = np.ix_(*masks), masks[0], masks[1]
    small = as_float32(game("tied", (5, 4)))
    padded = [np.full(shape, np.nan), np.full(shape[0], np.inf), np.full(shape[1], -np.inf)]
    for x, where, real in zip(padded, chosen, small, strict=True):
        x[where] = real

    @jax.jit
    def gradients_and_results(inputs, masks):
        def total(*inputs):
            results = solved(*inputs, *masks)
            return sum(jnp.sum(x**2) for x in results), results

        return jax.grad(total, (0, 1, 2), has_aux=True)(*inputs)

    gradients, results = gradients_and_results(as_float32(padded), [jnp.asarray(mask) for mask in masks])
    wanted, wanted_results = gradients_and_results(small, [jnp.ones(5, bool), jnp.ones(4, bool)])
    assert_close(wanted_results, enumerated(*small), 1e-5)
    places = [*chosen, *chosen]
    for got, where, want in zip((*results, *gradients), places, (*wanted_results, *wanted), strict=True):
        expected = np.zeros(got.shape)
        expected[where] = want
        np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
        np.testing.assert_array_equal(np.asarray(got)[expected == 0], 0)


@pytest.mark.parametrize("weights", ["softmax", "mean", "sum"])
@pytest.mark.parametrize(("words", "frames"), [(0, 3), (4, 0), (0, 0)])
def test_side_without_real_tokens_is_all_zero(words, frames, weights):
    inputs = as_float32(game("random", (4, 3)))
    masks = jnp.arange(4) < words, jnp.arange(3) < frames

    def total(*inputs):
        results = solved(*inputs, *masks, weights=weights)
        return sum(jnp.sum(x + x**2) for x in results), results

    gradients, results = jax.grad(total, (0, 1, 2), has_aux=True)(*inputs)
    assert_close(results, [0, 0, 0], 0)
    assert all(bool(jnp.all(gradient == 0)) for gradient in gradients)


@pytest.mark.parametrize("options", [{}, {"index": "shapley"}, {"weights": "sum"}])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_a_side_without_tokens_is_worth_nothing(shape, options):
    for batch in ((), (2,)):
        similarity, text, video = (jnp.zeros((*batch, *axes)) for axes in (shape, shape[:1], shape[1:]))
        got = solved(similarity, text, video, **options)
        for x, like in zip(got, (similarity, text, video), strict=True):
            assert x.dtype == like.dtype
            np.testing.assert_array_equal(x, like, strict=True)


def test_one_token_a_side_is_worth_its_similarity():
    """And each alone half of it, for half of all times the other is there."""
    got = solved(jnp.asarray([[-0.4]]), jnp.asarray([3.0]), jnp.asarray([-9.0]))
    assert_close(got, [[[-0.4]], [-0.2], [-0.2]], 1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_fills_its_own_pair_and_no_other(place, value):
    inputs = [jnp.zeros((2, 3, 4)), jnp.zeros((2, 3)), jnp.zeros((2, 4))]
    inputs[place] = inputs[place].at[(0,) * inputs[place].ndim].set(value)
    mask = jnp.ones((2, 4), bool).at[:, 3].set(False)
    pairs, words, frames = jitted(*inputs, None, mask)
    assert all(bool(jnp.all(jnp.isnan(x))) for x in (pairs[0, :, :3], words[0], frames[0, :3]))
    np.testing.assert_array_equal(pairs[0, :, 3], 0)
    np.testing.assert_array_equal(frames[0, 3], 0)
    assert_close([pairs[1], words[1], frames[1]], [0, 0, 0], 0)


@pytest.mark.parametrize("function", [banzhaf.interaction, banzhaf.value])
def test_what_is_not_finite_is_refused_where_it_is_seen(function):
    bad = jnp.zeros((2, 3, 4)).at[1, 2, 0].set(np.nan).at[1, 2, 3].set(np.inf)
    words, frames = jnp.zeros((2, 3)), jnp.zeros((2, 4))
    with pytest.raises(
        ValueError, match=r"similarity has 2 NaN or infinite .* first at \[1, 2, 0\]; mask those tokens"
    ):
        function(bad, words, frames)
    with pytest.raises(ValueError, match="video_logits has 1 NaN or infinite"):
        function(jnp.zeros((2, 3, 4)), words, frames.at[0, 1].set(-np.inf))
    masked = function(bad, words, frames, jnp.ones((2, 3), bool).at[1, 2].set(False))
    assert all(bool(jnp.all(x == 0)) for x in jax.tree.leaves(masked))


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"index": "shapley"}])
def test_gradients_equal_finite_differences(options):
    """Also where logits are tied or far apart: only ties of the similarity are kinks."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        cotangents = [jnp.asarray(rng.normal(size=shape)) for shape in ((4, 3), (4,), (3,))]

        def objective(*inputs):
            return sum(jnp.sum(c * x) for c, x in zip(cotangents, solved(*inputs, **options), strict=True))

        gradient = jax.jit(jax.grad(objective, (0, 1, 2)))
        moved = [jax.jit(jax.vmap(objective, [0 if k == n else None for k in range(3)])) for n in range(3)]
        for kind in ("random", "spread", "steps"):
            inputs = [jnp.asarray(x) for x in game(kind, (4, 3))]
            if kind == "random":
                inputs[1] = inputs[1].at[:3].set(0.7)
            for n, got in enumerate(gradient(*inputs)):
                each = 1e-5 * jnp.eye(got.size).reshape(got.size, *got.shape)
                up, down = (moved[n](*inputs[:n], inputs[n][None] + sign * each, *inputs[n + 1 :]) for sign in (1, -1))
                np.testing.assert_allclose(got.ravel(), (up - down) / 2e-5, atol=2e-8, err_msg=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite(kind):
    inputs = as_float32(game(kind, (7, 7)))
    gradients = jax.grad(lambda *inputs: sum(jnp.sum(x**2) for x in jitted(*inputs)), (0, 1, 2))(*inputs)
    assert all(bool(jnp.all(jnp.isfinite(gradient))) for gradient in gradients)


# --- properties ---------------------------------------------------------------------------------------------

games = st.builds(game, st.sampled_from(KINDS), st.just((5, 4)), st.integers(0, 10**6))
few = settings(max_examples=12, deadline=None, derandomize=True)


@few
@given(games)
def test_sides_can_be_exchanged(inputs):
    similarity, text, video = as_float32(inputs)
    pairs, frames, words = jitted(similarity.T, video, text)
    assert_close((pairs.T, words, frames), jitted(similarity, text, video), 1e-6)


@few
@given(games, st.permutations(range(5)), st.permutations(range(4)))
def test_order_of_tokens_does_not_matter(inputs, words, frames):
    """Where entries are tied too: the order of equal ones moves nothing but rounding."""
    similarity, text, video = as_float32(inputs)
    words, frames = np.asarray(words), np.asarray(frames)
    cells = np.ix_(words, frames)
    permuted = jitted(similarity[cells], text[words], video[frames])
    results = jitted(similarity, text, video)
    assert_close(permuted, [x[where] for x, where in zip(results, (cells, words, frames), strict=True)], 2e-6)


@few
@given(games, st.floats(-50, 50))
def test_logits_count_by_their_differences(inputs, shift):
    similarity, text, video = as_float32(inputs)
    assert_close(jitted(similarity, text + shift, video - shift), jitted(similarity, text, video), 2e-5)


@few
@given(games)
def test_linear_in_similarity_of_one_order(inputs):
    similarity, text, video = as_float32(inputs)
    cubed = similarity**3
    parts = zip(jitted(similarity, text, video), jitted(cubed, text, video), strict=True)
    assert_close(jitted(similarity + 2 * cubed, text, video), [x + 2 * y for x, y in parts], 4e-6)


@few
@given(games)
def test_shapley_values_add_up_to_the_value_of_all(inputs):
    inputs = as_float32(inputs)
    _, words, frames = jitted(*inputs, index="shapley")
    everybody = banzhaf.coalition_value(*inputs, jnp.ones(5, bool), jnp.ones(4, bool))
    np.testing.assert_allclose(jnp.sum(words) + jnp.sum(frames), everybody, atol=2e-6)


@few
@given(games)
def test_a_joining_frame_raises_the_value_of_a_word_by_their_interaction(inputs):
    """The interaction is how much more the word is worth when the frame is there for sure: from the other side,
    the value of a word is linear in the join probability of one frame. At 1/2 it is the mean of both ends."""
    similarity, text, video = as_float32(inputs)
    pairs, words, _ = jitted(similarity, text, video)
    without = jitted(similarity, text, video, jnp.ones(5, bool), jnp.arange(4) != 2)[1]
    np.testing.assert_allclose(words, without + 0.5 * pairs[:, 2], atol=3e-6)


# --- shapes, dtypes, ways of running ------------------------------------------------------------------------


def batch(*axes: int):
    pairs = [game(KINDS[i % 4], (5, 4), seed=i) for i in range(int(np.prod(axes)))]
    return [
        x.reshape(*axes, *x.shape[1:]) for x in (jnp.stack(as_float32(column)) for column in zip(*pairs, strict=True))
    ]


def test_batch_axes_jit_and_vmap_agree_with_single_pairs():
    inputs = batch(2, 3)
    masks = (
        jnp.asarray(np.arange(5) < np.asarray([[5, 4, 3], [2, 1, 0]])[..., None]),
        jnp.ones((2, 3, 4), bool),
    )
    together = solved(*inputs, *masks)
    assert_close(jitted(*inputs, *masks), together, 1e-6)
    assert_close(jax.vmap(solved)(*inputs, *masks), together, 1e-6)
    for where in np.ndindex(2, 3):
        assert_close(solved(*(x[where] for x in (*inputs, *masks))), [x[where] for x in together], 1e-6)


def test_runs_without_jit():
    inputs = as_float32(game("random", (2, 2)))
    with jax.disable_jit():
        eager = banzhaf.interaction(*inputs)
    np.testing.assert_allclose(eager, interaction(*inputs), atol=1e-6)


@pytest.mark.eight_devices
def test_one_device_is_eight_devices():
    inputs = batch(16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    got = jitted(*sharded)
    assert all(len(x.sharding.device_set) == 8 for x in got)
    assert_close(got, jitted(*inputs), 1e-7)


def test_sorting_and_comparing_agree():
    rng = np.random.default_rng(0)
    row, cotangent = (jnp.asarray(rng.integers(-9, 9, 40) / 8, jnp.float32) for _ in range(2))
    mask = jnp.asarray(rng.uniform(size=40) < 0.8)
    ways = [
        jax.vjp(lambda x, f=f: f(x, mask, 0.3), row)
        for f in (expectation.expected_match, expectation._match_by_sorting)
    ]
    for one, other in zip(*(results for results, _ in ways), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    one, other = (gradient((jnp.ones(()), cotangent))[0] for _, gradient in ways)
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("n", [64, 256])
def test_many_tokens_are_near_their_float64_values(n):
    inputs = game("spread", (n, n))
    with jax.enable_x64(True):
        want = [np.asarray(x) for x in jitted(*map(jnp.asarray, inputs))]
    assert all(np.abs(x).max() > 1e-3 for x in want)
    assert_close(jitted(*as_float32(inputs)), want, 2e-6)


@pytest.mark.slow
def test_shapley_takes_enough_nodes_for_many_tokens(monkeypatch):
    inputs = as_float32(game("random", (40, 50)))
    got = solved(*inputs, index="shapley")
    nodes = exact._probability_nodes(90, "shapley", 0.5)
    many = exact._probability_nodes(1000, "shapley", 0.5)
    assert len(nodes) < 45 < len(many)
    monkeypatch.setattr(exact, "_probability_nodes", lambda *_: many)
    assert_close(got, solved(*inputs, index="shapley"), 1e-6)


@pytest.mark.parametrize(("players", "share"), [(14, 1e-13), (41, 1e-13), (64, 3e-9), (512, 2e-6)])
def test_shapley_weighs_coalitions_of_every_size_alike(players, share):
    """Of n - 1 others, k are there with the same probability 1 / n for every k: the integral of a binomial over q."""
    q, weight = np.asarray(exact._probability_nodes(players, "shapley", 0.5)).T
    k = np.arange(players)[:, None]
    coefficients = np.asarray([[math.log(math.comb(players - 1, size))] for size in range(players)])
    sizes = np.exp(coefficients + k * np.log(q) + (players - 1 - k) * np.log1p(-q)) @ weight
    np.testing.assert_allclose(sizes, 1 / players, rtol=share)


@pytest.mark.parametrize("number", [np.float32(0.25), jnp.float32(0.25), np.asarray(0.25)])
def test_the_join_probability_is_any_number(number):
    inputs = as_float32(game("random", (4, 6)))
    assert_close(solved(*inputs, join_probability=number), solved(*inputs, join_probability=0.25), 0)


def test_a_traced_join_probability_is_refused():
    inputs = as_float32(game("random", (4, 6)))
    with pytest.raises(ValueError, match="or a traced one; it is static: give a float"):
        jax.jit(lambda q: solved(*inputs, join_probability=q))(0.3)


def test_integers_are_computed_in_float32():
    inputs = jnp.asarray([[1, 0, 2], [3, 1, 1]]), jnp.asarray([1, 2]), jnp.asarray([0, 0, 1])
    got = inspect.unwrap(banzhaf.interaction)(*inputs)
    assert got.dtype == jnp.float32
    assert_close([got, 0, 0], [banzhaf.interaction(*as_float32(inputs)), 0, 0], 0)


def test_bfloat16_is_computed_in_float32():
    inputs = [x.astype(jnp.bfloat16) for x in as_float32(game("random", (6, 5)))]
    got = solved(*inputs)
    assert all(x.dtype == jnp.float32 for x in got)
    assert_close(got, solved(*(x.astype(jnp.float32) for x in inputs)), 0)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": jnp.zeros(3)}, r"similarity has shape \(3,\); give"),
        ({"text_logits": jnp.zeros(2)}, r"text_logits has shape \(2,\).*asks for \(3,\)"),
        ({"video_logits": jnp.zeros((1, 4))}, r"video_logits has shape \(1, 4\).*asks for \(4,\)"),
        ({"video_logits": None}, "video_logits=None; give logits, or use weights="),
        ({"text_mask": jnp.ones(4, bool)}, r"text_mask has shape \(4,\).*asks for \(3,\)"),
        ({"video_mask": jnp.zeros(4)}, "video_mask has dtype float32; give bool"),
        ({"video_logits": jnp.ones(4, bool)}, "video_logits has dtype bool; give real numbers"),
        ({"similarity": jnp.ones((3, 4), complex)}, "similarity has dtype complex64; give real numbers"),
        ({"weights": "max"}, "'max' is unknown; use one of softmax, mean, sum"),
        ({"index": "owen"}, "'owen' is unknown; use one of banzhaf, shapley"),
        ({"join_probability": jnp.ones(2)}, "join_probability=Array.* is not a number, or a traced one"),
        ({"join_probability": 0.0}, "join_probability=0.0 is not strictly between 0 and 1"),
        ({"index": "shapley", "join_probability": 0.4}, "no meaning with index='shapley'"),
    ],
)
def test_bad_input_is_named_with_its_remedy(change, message):
    arguments = {
        "similarity": jnp.zeros((3, 4)),
        "text_logits": jnp.zeros(3),
        "video_logits": jnp.zeros(4),
    } | change
    for function in (banzhaf.interaction, banzhaf.value):
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(function)(**arguments)  # without the shape checks that only tests run with
