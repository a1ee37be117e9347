"""The closed form against enumeration of all coalitions, and the properties that any interaction has."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hbi_jax import banzhaf
from hbi_jax.banzhaf import exact

SHAPES = [(7, 7), (12, 2), (1, 6), (6, 1), (1, 1)]
KINDS = ["random", "tied", "negative", "identical", "one_hot", "spread", "steps", "outlier"]
interaction = jax.jit(banzhaf.interaction)


@functools.partial(jax.jit, static_argnames=("index", "join_probability"))
def enumerated(similarity, text_logits, video_logits, **options):
    payoff = functools.partial(banzhaf.coalition_value, similarity, text_logits, video_logits)
    return banzhaf.enumerate(payoff, *similarity.shape, **options)


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
        got = interaction(*inputs)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, enumerated(*inputs), atol=1e-5, rtol=0, err_msg=kind)
        if kind == "random":
            assert np.abs(got).max() > 1e-3  # a comparison of zeros would tell nothing


@pytest.mark.parametrize("shape", [(7, 7), (3, 11)])
def test_equals_enumeration_in_float64(shape):
    with jax.enable_x64(True):
        for kind in KINDS:
            inputs = [jnp.asarray(x) for x in game(kind, shape, seed=1)]
            got = interaction(*inputs)
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, enumerated(*inputs), atol=1e-9, rtol=0, err_msg=kind)


@pytest.mark.parametrize("options", [{"index": "shapley"}, {"join_probability": 0.05}, {"join_probability": 0.9}])
def test_other_indices_equal_enumeration(options):
    for kind in ("random", "tied", "spread"):
        inputs = as_float32(game(kind, (4, 6)))
        np.testing.assert_allclose(
            banzhaf.interaction(*inputs, **options), enumerated(*inputs, **options), atol=1e-5, rtol=0
        )


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

    got = banzhaf.interaction(similarity, None, None, weights=weights, **options)
    np.testing.assert_allclose(got, banzhaf.enumerate(payoff, 3, 4, **options), atol=1e-6)


def test_two_tokens_by_hand():
    """One word, two frames of equal weight, a > b: from the four coalitions of Eq. 1, written out.

    I_1 = E over {frame 2 absent, present} = 1/2 [a] + 1/2 [(a + (a+b)/2) / 2 - b];  I_2 with a and b
    exchanged in the average but not in the maximum.
    """
    a, b = 0.8, 0.3
    got = banzhaf.interaction(jnp.asarray([[a, b]]), jnp.zeros(1), jnp.zeros(2))
    both = (a + (a + b) / 2) / 2
    np.testing.assert_allclose(got, [[0.5 * a + 0.5 * (both - b), 0.5 * b + 0.5 * (both - a)]], rtol=1e-6)


# --- masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 8), (66, 70)])  # ranks by comparison, ranks by sorting
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
    def gradients_and_grid(inputs, masks):
        def total(*inputs):
            grid = banzhaf.interaction(*inputs, *masks)
            return jnp.sum(grid**2), grid

        return jax.grad(total, (0, 1, 2), has_aux=True)(*inputs)

    gradients, grid = gradients_and_grid(as_float32(padded), [jnp.asarray(mask) for mask in masks])
    wanted, wanted_grid = gradients_and_grid(small, [jnp.ones(5, bool), jnp.ones(4, bool)])
    np.testing.assert_allclose(wanted_grid, enumerated(*small), atol=1e-5, rtol=0)
    for got, where, want in zip((grid, *gradients), (chosen[0], *chosen), (wanted_grid, *wanted), strict=True):
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
        grid = banzhaf.interaction(*inputs, *masks, weights=weights)
        return jnp.sum(grid + grid**2), grid

    gradients, grid = jax.grad(total, (0, 1, 2), has_aux=True)(*inputs)
    np.testing.assert_array_equal(grid, 0)
    assert all(bool(jnp.all(gradient == 0)) for gradient in gradients)


def test_one_token_a_side_is_worth_its_similarity():
    got = banzhaf.interaction(jnp.asarray([[-0.4]]), jnp.asarray([3.0]), jnp.asarray([-9.0]))
    np.testing.assert_allclose(got, [[-0.4]], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_fills_its_own_pair_and_no_other(place, value):
    inputs = [jnp.zeros((2, 3, 4)), jnp.zeros((2, 3)), jnp.zeros((2, 4))]
    inputs[place] = inputs[place].at[(0,) * inputs[place].ndim].set(value)
    mask = jnp.ones((2, 4), bool).at[:, 3].set(False)
    got = interaction(*inputs, None, mask)
    assert bool(jnp.all(jnp.isnan(got[0, :, :3])))
    np.testing.assert_array_equal(got[0, :, 3], 0)
    np.testing.assert_array_equal(got[1], 0)


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"index": "shapley"}])
def test_gradients_equal_finite_differences(options):
    """Also where logits are tied or far apart: only ties of the similarity are kinks."""
    with jax.enable_x64(True):
        cotangent = jnp.asarray(np.random.default_rng(3).normal(size=(4, 3)))
        objective = lambda *inputs: jnp.sum(cotangent * banzhaf.interaction(*inputs, **options))  # noqa: E731
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
    gradients = jax.grad(lambda *inputs: jnp.sum(interaction(*inputs) ** 2), (0, 1, 2))(*inputs)
    assert all(bool(jnp.all(jnp.isfinite(gradient))) for gradient in gradients)


# --- properties ---------------------------------------------------------------------------------------------

games = st.builds(game, st.sampled_from(KINDS), st.just((5, 4)), st.integers(0, 10**6))
few = settings(max_examples=12, deadline=None, derandomize=True)


@few
@given(games)
def test_sides_can_be_exchanged(inputs):
    similarity, text, video = as_float32(inputs)
    np.testing.assert_allclose(
        interaction(similarity.T, video, text).T, interaction(similarity, text, video), atol=1e-6
    )


@few
@given(games, st.permutations(range(5)), st.permutations(range(4)))
def test_order_of_tokens_does_not_matter(inputs, words, frames):
    """Where entries are tied too: the order of equal ones moves nothing but rounding."""
    similarity, text, video = as_float32(inputs)
    words, frames = np.asarray(words), np.asarray(frames)
    permuted = interaction(similarity[np.ix_(words, frames)], text[words], video[frames])
    np.testing.assert_allclose(permuted, interaction(similarity, text, video)[np.ix_(words, frames)], atol=2e-6)


@few
@given(games, st.floats(-50, 50))
def test_logits_count_by_their_differences(inputs, shift):
    similarity, text, video = as_float32(inputs)
    np.testing.assert_allclose(
        interaction(similarity, text + shift, video - shift), interaction(similarity, text, video), atol=2e-5
    )


@few
@given(games)
def test_linear_in_similarity_of_one_order(inputs):
    similarity, text, video = as_float32(inputs)
    cubed = similarity**3
    parts = interaction(similarity, text, video) + 2 * interaction(cubed, text, video)
    np.testing.assert_allclose(interaction(similarity + 2 * cubed, text, video), parts, atol=4e-6)


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
    together = banzhaf.interaction(*inputs, *masks)
    with jax.disable_jit():
        eager = banzhaf.interaction(*(x[0, 1] for x in (*inputs, *masks)))
    np.testing.assert_allclose(eager, together[0, 1], atol=1e-6)
    np.testing.assert_allclose(interaction(*inputs, *masks), together, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(banzhaf.interaction)(*inputs, *masks), together, atol=1e-6)
    for where in np.ndindex(2, 3):
        single = banzhaf.interaction(*(x[where] for x in (*inputs, *masks)))
        np.testing.assert_allclose(single, together[where], atol=1e-6)


def test_one_device_is_eight_devices():
    inputs = batch(16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    got = interaction(*sharded)
    assert len(got.sharding.device_set) == 8
    np.testing.assert_allclose(got, interaction(*inputs), atol=1e-7)


def test_sorting_and_comparing_agree():
    rng = np.random.default_rng(0)
    row, cotangent = (jnp.asarray(rng.integers(-9, 9, 40) / 8, jnp.float32) for _ in range(2))
    mask = jnp.asarray(rng.uniform(size=40) < 0.8)
    results = [
        jax.vjp(lambda x, f=f: f(x, mask, 0.3), row) for f in (exact._match_change, exact._match_change_by_sorting)
    ]
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-6)
    np.testing.assert_allclose(results[0][1](cotangent)[0], results[1][1](cotangent)[0], atol=1e-6)


@pytest.mark.parametrize("n", [64, 256])
def test_many_tokens_are_near_their_float64_values(n):
    inputs = game("spread", (n, n))
    with jax.enable_x64(True):
        want = np.asarray(interaction(*map(jnp.asarray, inputs)))
    got = interaction(*as_float32(inputs))
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_shapley_takes_enough_nodes_for_many_tokens(monkeypatch):
    inputs = as_float32(game("random", (40, 50)))
    got = banzhaf.interaction(*inputs, index="shapley")
    nodes = exact._probability_nodes(90, "shapley", 0.5)
    many = exact._probability_nodes(1000, "shapley", 0.5)
    assert len(nodes) < 45 < len(many)
    monkeypatch.setattr(exact, "_probability_nodes", lambda *_: many)
    np.testing.assert_allclose(got, banzhaf.interaction(*inputs, index="shapley"), atol=1e-6)


def test_bfloat16_is_computed_in_float32():
    inputs = [x.astype(jnp.bfloat16) for x in as_float32(game("random", (6, 5)))]
    got = banzhaf.interaction(*inputs)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, banzhaf.interaction(*(x.astype(jnp.float32) for x in inputs)))


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
        ({"weights": "max"}, "'max' is unknown; use one of softmax, mean, sum"),
        ({"index": "owen"}, "'owen' is unknown; use one of banzhaf, shapley"),
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
    unchecked = inspect.unwrap(banzhaf.interaction)  # without the shape checks that only tests run with
    with pytest.raises(ValueError, match=message):
        unchecked(**arguments)
