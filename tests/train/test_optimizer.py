"""Parameter groups, schedules, clipping and decay, each by the size of the updates that it leads to."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import path_name
from hbi_jax.train.config import OptimizerConfig
from hbi_jax.train.muon import MUON_RMS, is_matrix, muon
from hbi_jax.train.optimizer import (
    PUBLISHED_NO_DECAY_PATTERN,
    clip_each,
    decays,
    keep_logit_scale_below,
    make_optimizer,
    make_schedule,
    parameter_groups,
    published_cosine,
    warmup_cosine,
)
from tests.tiny_hbi import CONFIG, make_batch

# No warm-up: the first update has the peak rate. No decay: it has nothing else.
PLAIN = OptimizerConfig(
    learning_rate=1e-2,
    clip_learning_rate=1e-4,
    warmup_rate=0.0,
    weight_decay=0.0,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    clip_norm=1.0,
    frozen=(),
    max_logit_scale=100.0,
)
PARAMS = {
    "params": {
        "header": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])},
        "text_tower": {"proj": {"kernel": jnp.array([3.0, 4.0])}, "ln_final": {"scale": jnp.array([1.0])}},
        "vision_tower": {"patch_embedding": {"kernel": jnp.array([5.0])}},
        "logit_scale": jnp.array(2.0),
    }
}


def like(value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), PARAMS)


def with_leaf(tree, *path, value):
    """A copy of the tree with one leaf replaced."""
    if not path:
        return value
    return {**tree, path[0]: with_leaf(tree[path[0]], *path[1:], value=value)}


def updates_of(config, *gradients, params=PARAMS, num_steps=100):
    """The updates of several steps in a row; parameters stay where they are."""
    tx = make_optimizer(config, params, num_steps)
    update, state, updates = jax.jit(tx.update), tx.init(params), []
    for gradient in gradients:
        step, state = update(gradient, state, params)
        updates.append(step["params"])
    return updates


@pytest.fixture(scope="module")
def tree():
    """The parameters of a real model, as shapes."""
    batch = jax.tree.map(jnp.asarray, make_batch(2))
    return jax.eval_shape(HBI(CONFIG).init, jax.random.key(0), batch)


def names_where(tree, condition):
    return {path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if condition(leaf)}


def test_schedule_by_hand():
    schedule = warmup_cosine(2.0, num_steps=100, warmup_rate=0.1)
    np.testing.assert_allclose([schedule(step) for step in (0, 5, 10, 55, 100)], [0, 1, 2, 1, 0], atol=1e-6)
    values = [float(schedule(step)) for step in range(10, 101)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("num_steps", "warmup_rate"), [(1, 0.0), (1, 1.0), (2, 1.0), (7, 0.0), (10, 1.0)])
def test_schedules_at_the_edges_are_finite_and_used(num_steps, warmup_rate):
    """However short the run and however long its warm-up."""
    schedule = warmup_cosine(2.0, num_steps, warmup_rate)
    values = np.array([schedule(step) for step in range(num_steps + 1)])
    assert np.all(np.isfinite(values))
    assert np.all((values >= 0) & (values <= 2))
    assert values.max() == 2


def test_groups_of_a_real_model(tree):
    """CLIP's towers and its temperature at their own rate, all that is new at the other."""
    groups = parameter_groups(tree)
    roots = {name: {path.split("/")[1] for path in names_where(groups, name.__eq__)} for name in ("clip", "new")}
    assert roots["clip"] == {"text_tower", "vision_tower", "logit_scale"}
    levels = {f"{part}_{level}" for part in ("text_weight", "video_weight", "header") for level in ("entity", "action")}
    assert roots["new"] == {"frame_transformer", "text_merge_action", "video_merge_action"} | levels
    frozen = parameter_groups(tree, ("vision_tower/patch_embedding", "^params/text_tower/ln"))
    assert names_where(frozen, "frozen".__eq__) == {
        "params/vision_tower/patch_embedding/kernel",
        "params/text_tower/ln_final/scale",
        "params/text_tower/ln_final/bias",
    }


def test_what_decays_in_a_real_model(tree):
    """Kernels and the token table; no bias, norm, position, class token or temperature."""
    flags = decays(tree)
    yes, no = names_where(flags, bool), names_where(flags, lambda flag: not flag)

    def block(tower):
        parts = ("attn/in_proj", "attn/out_proj", "mlp_fc", "mlp_proj")
        return {f"params/{tower}/transformer/resblocks_0/{part}/kernel" for part in parts}

    def merge(side):
        parts = ("conv", "score", "attention/q", "attention/kv", "attention/proj")
        return {f"params/{side}_merge_action/{part}/kernel" for part in parts}

    def per_level(level):
        weights = {
            f"params/{side}_weight_{level}/{part}/kernel" for side in ("text", "video") for part in ("hidden", "logit")
        }
        parts = ("conv_in", "conv_out", "query", "key", "value")
        return weights | {f"params/header_{level}/{part}/kernel" for part in parts}

    assert yes == {
        "params/text_tower/token_embedding/embedding",
        "params/text_tower/text_projection/kernel",
        "params/vision_tower/patch_embedding/kernel",
        "params/vision_tower/proj/kernel",
        *block("text_tower"),
        *block("vision_tower"),
        *block("frame_transformer"),
        *merge("text"),
        *merge("video"),
        *per_level("entity"),
        *per_level("action"),
    }
    assert {name.split("/")[-1] for name in no} == {
        "bias",
        "scale",
        "positional_embedding",
        "class_embedding",
        "logit_scale",
    }


def test_each_group_gets_its_rate():
    """Adam's first update is the rate itself, against the sign of the gradient."""
    sign = with_leaf(like(0.3), "params", "header", "kernel", value=jnp.array([0.3, -0.3]))
    (got,) = updates_of(PLAIN, sign)
    np.testing.assert_allclose(got["header"]["kernel"], [-1e-2, 1e-2], rtol=1e-4)
    np.testing.assert_allclose(got["header"]["bias"], [-1e-2], rtol=1e-4)
    np.testing.assert_allclose(got["text_tower"]["proj"]["kernel"], [-1e-4, -1e-4], rtol=1e-4)
    np.testing.assert_allclose(got["vision_tower"]["patch_embedding"]["kernel"], [-1e-4], rtol=1e-4)
    np.testing.assert_allclose(got["logit_scale"], -1e-4, rtol=1e-4)


def test_rates_follow_the_schedule():
    """With constant gradients Adam's update stays the rate of its step: 0, then half way up, then the peak."""
    config = dataclasses.replace(PLAIN, warmup_rate=0.02)
    steps = updates_of(config, *[like(0.3)] * 3)
    got = [float(step["header"]["bias"][0]) for step in steps]
    np.testing.assert_allclose(got, [0, -5e-3, -1e-2], rtol=1e-4, atol=1e-9)


def test_decay_pulls_kernels_only():
    """Without a gradient what is left is rate x decay x parameter."""
    (got,) = updates_of(dataclasses.replace(PLAIN, weight_decay=0.2), like(0.0))
    np.testing.assert_allclose(got["header"]["kernel"], [-1e-2 * 0.2 * 1, 1e-2 * 0.2 * 2], rtol=1e-5)
    np.testing.assert_allclose(got["text_tower"]["proj"]["kernel"], [-1e-4 * 0.2 * 3, -1e-4 * 0.2 * 4], rtol=1e-5)
    for leaf in (got["header"]["bias"], got["text_tower"]["ln_final"]["scale"], got["logit_scale"]):
        np.testing.assert_array_equal(leaf, 0)


def test_frozen_parameters_stay_bitwise():
    config = dataclasses.replace(PLAIN, weight_decay=0.2, frozen=("text_tower", "patch_embedding"))
    tx = make_optimizer(config, PARAMS, 100)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(like(0.7), state, params)
        params = optax.apply_updates(params, updates)
    for frozen in ("text_tower", "vision_tower"):
        jax.tree.map(np.testing.assert_array_equal, params["params"][frozen], PARAMS["params"][frozen])
    assert np.all(params["params"]["header"]["kernel"] != PARAMS["params"]["header"]["kernel"])
    assert not any(
        leaf.shape == (2,) and "text_tower" in path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    )


def test_gradients_are_clipped_together():
    """A gradient of norm 80 counts as the same one of norm 1; Adam's second update shows it."""
    size = float(optax.tree.norm(like(1.0)))
    small, big, unit = like(0.1), like(80 / size), like(1 / size)
    *_, clipped = updates_of(PLAIN, big, small)
    *_, same = updates_of(PLAIN, unit, small)
    *_, other = updates_of(dataclasses.replace(PLAIN, clip_norm=80.0), big, small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), clipped, same)
    assert abs(clipped["header"]["bias"][0] - other["header"]["bias"][0]) > 1e-4


def test_frozen_gradients_do_not_count_in_the_norm():
    config = dataclasses.replace(PLAIN, frozen=("patch_embedding",))
    huge = with_leaf(like(0.1), "params", "vision_tower", "patch_embedding", "kernel", value=jnp.array([1e6]))
    with_huge, without = (updates_of(config, first, like(0.05)) for first in (huge, like(0.1)))
    jax.tree.map(np.testing.assert_array_equal, with_huge, without)


def test_the_temperature_never_exceeds_its_bound():
    """Though every gradient asks for more: exp(logit_scale) reaches 100 and stays, and may come back."""
    config = dataclasses.replace(PLAIN, clip_learning_rate=0.1)
    params = with_leaf(PARAMS, "params", "logit_scale", value=jnp.array(np.log(80.0), jnp.float32))
    tx = make_optimizer(config, params, 1000)
    state, update, scales = tx.init(params), jax.jit(tx.update), []
    for direction in [-0.3] * 6 + [0.3] * 20:
        updates, state = update(like(direction), state, params)
        params = optax.apply_updates(params, updates)
        scales.append(float(jnp.exp(params["params"]["logit_scale"])))
    assert max(scales) <= 100 * (1 + 1e-6)
    np.testing.assert_allclose(scales[2:6], 100, rtol=1e-5)
    assert scales[-1] < 90


def test_only_the_temperature_is_bounded():
    tx = keep_logit_scale_below(np.e)
    params = {"logit_scale": jnp.array(0.9), "other": jnp.array(0.9)}
    updates = {"logit_scale": jnp.array(0.5), "other": jnp.array(0.5)}
    got, _ = tx.update(updates, tx.init(params), params)
    np.testing.assert_allclose(got["logit_scale"], 0.1, rtol=1e-5)
    assert got["other"] == 0.5


def test_a_pattern_that_freezes_nothing_is_named():
    with pytest.raises(ValueError, match=r"config.optimizer.frozen: 'visual' matches no parameter"):
        make_optimizer(dataclasses.replace(PLAIN, frozen=("text_tower", "visual")), PARAMS, 10)


def test_muon_turns_matrices_and_leaves_the_rest_to_adam(tree):
    """Singular values of a matrix's update are near 0.2 sqrt(longer side) x rate, however the gradient's differ."""
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=(24, 8)), full_matrices=False)
    gradient = left * np.geomspace(0.05, 1, 8) @ right
    params = with_leaf(PARAMS, "params", "header", "kernel", value=jnp.ones((24, 8)))
    gradients = with_leaf(like(0.3), "params", "header", "kernel", value=jnp.asarray(gradient, jnp.float32))
    (got,) = updates_of(dataclasses.replace(PLAIN, name="muon", clip_norm=1e3), gradients, params=params)
    values = np.linalg.svd(got["header"]["kernel"], compute_uv=False) / (1e-2 * 0.2 * np.sqrt(24))
    assert np.all((values > 0.6) & (values < 1.3))
    assert np.vdot(got["header"]["kernel"], gradient) < 0
    # Nesterov's first step of Adam is longer than the rate.
    first = -(PLAIN.b1 / (1 + PLAIN.b1) + 1)
    np.testing.assert_allclose(got["header"]["bias"], [1e-2 * first], rtol=1e-3)
    np.testing.assert_allclose(got["text_tower"]["ln_final"]["scale"], [1e-4 * first], rtol=1e-3)
    turned = names_where(is_matrix(tree), bool)
    assert {"params/vision_tower/patch_embedding/kernel", "params/video_merge_action/score/kernel"} <= turned
    assert all(name.endswith("/kernel") for name in turned)
    assert not any("embedding/embedding" in name or "conv_in" in name for name in turned)
    classifier = {"params": {"answer_entity": {"hidden": {"kernel": jnp.zeros((2, 3))}}}}
    assert not names_where(is_matrix(classifier), bool)


def test_muon_is_that_of_optax():
    """Matrices of one shape are stacked; updates and state are those of the library's for each alone."""
    rng = np.random.default_rng(0)
    shapes = (("a", (8, 24)), ("b", (8, 24)), ("c", (24, 8)), ("d", (8, 8)))

    def drawn():
        layers = {name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=2)} for name, shape in shapes}
        return {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), layers)}

    config, params, schedule = dataclasses.replace(PLAIN, weight_decay=0.2), drawn(), optax.constant_schedule(1e-2)
    found, wanted = params, params
    ours = muon(config, schedule, decays)
    theirs = optax.contrib.muon(
        schedule,
        eps=config.eps,
        weight_decay=config.weight_decay,
        weight_decay_mask=decays,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda matrix: optax.contrib.MuonDimensionNumbers() if matrix else None, is_matrix(tree)
        ),
        consistent_rms=MUON_RMS,
    )
    states = ours.init(params), theirs.init(params)
    for _ in range(3):
        gradients = drawn()
        one, other = ours.update(gradients, states[0], found), theirs.update(gradients, states[1], wanted)
        found, wanted = optax.apply_updates(found, one[0]), optax.apply_updates(wanted, other[0])
        states = one[1], other[1]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, wanted)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *states)


def test_muon_decays_matrices_only():
    params = with_leaf(PARAMS, "params", "header", "kernel", value=jnp.full((2, 2), 3.0))
    gradients = with_leaf(like(0.0), "params", "header", "kernel", value=jnp.zeros((2, 2)))
    (got,) = updates_of(dataclasses.replace(PLAIN, name="muon", weight_decay=0.2), gradients, params=params)
    np.testing.assert_allclose(got["header"]["kernel"], np.full((2, 2), -1e-2 * 0.2 * 3), rtol=1e-5)
    np.testing.assert_array_equal(got["header"]["bias"], 0)
    np.testing.assert_array_equal(got["text_tower"]["proj"]["kernel"], 0)


def golden_steps():
    """Parameters, 13 states of each, and 12 gradients of a published run, under names that our rules know."""
    # The golden's fifth tensor does not decay, because of a name that no model has; here biases do not.
    names = {
        "clip.w": ("text_tower", "kernel"),
        "clip.b": ("text_tower", "bias"),
        "head.w": ("header", "kernel"),
        "head.bias": ("header", "bias"),
        "ln.LayerNorm.weight": ("norm", "bias"),
    }
    with np.load(pathlib.Path(__file__).parents[1] / "golden" / "bert_adam.npz") as file:
        arrays = dict(file)

    def tree(kind, step):
        out = {}
        for name, (module, leaf) in names.items():
            out.setdefault(module, {})[leaf] = jnp.asarray(arrays[f"{kind}.{name}"][step])
        return {"params": out}

    return [tree("param", step) for step in range(13)], [tree("grad", step) for step in range(12)]


BERT_ADAM = dataclasses.replace(
    PLAIN, name="bert_adam", learning_rate=1e-4, clip_learning_rate=1e-7, warmup_rate=0.1, weight_decay=0.2
)


def test_bert_adam_is_the_published_optimizer():
    """Over 12 steps of a schedule of 10; CLIP's rate of 1e-7 is a rounding error of its parameters."""
    wanted, gradients = golden_steps()
    tx = make_optimizer(BERT_ADAM, wanted[0], 10)
    params, state, update = wanted[0], tx.init(wanted[0]), jax.jit(tx.update)
    for gradient, after in zip(gradients, wanted[1:], strict=True):
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=5e-7), params, after)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), params, wanted[0])["params"]
    assert min(moved["header"]["kernel"], moved["norm"]["bias"]) > 1e-4


def test_the_two_optimizers_differ():
    (first, *_), gradients = golden_steps()
    one, other = (
        updates_of(config, *gradients[:4], params=first, num_steps=10)[-1]["header"]["kernel"]
        for config in (BERT_ADAM, dataclasses.replace(BERT_ADAM, name="adamw"))
    )
    assert np.abs(one - other).max() > 1e-5


def test_the_published_schedule_by_hand():
    """Linear over a tenth, then the cosine of the whole progress, which comes back up."""
    schedule = published_cosine(2.0, num_steps=100, warmup_rate=0.1)
    wanted = {step: 1 + np.cos(np.pi * step / 100) for step in (10, 25, 50, 100, 150)}
    wanted |= {0: 0, 5: 1, 9: 1.8}
    np.testing.assert_allclose([schedule(step) for step in wanted], list(wanted.values()), atol=1e-5)
    no_warmup = published_cosine(2.0, num_steps=4, warmup_rate=0.0)
    np.testing.assert_allclose([no_warmup(step) for step in (0, 2, 4)], [2, 1, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "function"), [("adamw", warmup_cosine), ("bert_adam", published_cosine)])
def test_the_schedule_of_a_configuration(name, function):
    """A share of the run: five epochs of ten, say."""
    config = dataclasses.replace(PLAIN, name=name, warmup_rate=0.1, schedule_share=0.5)
    got, wanted = make_schedule(config, 2.0, 80), function(2.0, 40, 0.1)
    for step in (0, 3, 4, 20, 60):
        assert got(step) == wanted(step)


def test_tensors_are_clipped_each_by_itself():
    gradient = {"large": jnp.array([30.0, 40.0]), "small": jnp.array([0.5]), "none": jnp.zeros(2)}
    got, _ = clip_each(2.0).update(gradient, optax.EmptyState())
    np.testing.assert_allclose(got["large"], [1.2, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(got["small"], gradient["small"])
    np.testing.assert_array_equal(got["none"], 0)


def test_published_decay_spares_biases_only(tree):
    no = names_where(decays(tree, PUBLISHED_NO_DECAY_PATTERN), lambda flag: not flag)
    assert no == {name for name in names_where(tree, lambda _: True) if name.endswith("/bias")}
    assert "params/logit_scale" not in no
