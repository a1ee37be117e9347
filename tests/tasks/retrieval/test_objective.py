"""The losses of HCMI in the objective: what is found, that parts can be switched off, devices, padding, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import losses
from hbi_jax.models.config import Level
from hbi_jax.models.hcmi import HCMI
from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.teacher import exact_teacher
from tests.tiny_hbi import CONFIG, make_batch, random_params

MODEL = HCMI(
    dataclasses.replace(
        CONFIG,
        method="hcmi",
        levels=(Level("frame"), Level("clip", 3, 2), Level("video", 1, 1)),
        frame_layers=0,
        header="none",
    )
)
PLAIN = AlignmentLossConfig(interaction_weight=0.0, distillation_weight=0.0)
EVERYTHING = dataclasses.replace(PLAIN, denoising=True, margin_weight=1.0, margin=0.2)
ROWS = 8
FIRST, SECOND = make_batch(ROWS), make_batch(ROWS, seed=1)
# Rows 1 and 5 show the same scene in the same frames; the last row is masked.
_SHOWN = [0, 1, 2, 3, 4, 1, 6, 7]
BATCH = FIRST._replace(
    frames=FIRST.frames[_SHOWN],
    frame_mask=FIRST.frame_mask[_SHOWN],
    second_frames=SECOND.frames[_SHOWN],
    second_mask=SECOND.frame_mask[_SHOWN],
    scene_index=np.asarray(_SHOWN, np.int32),
    example_mask=np.arange(ROWS) < ROWS - 1,
)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, jax.tree.map(jnp.asarray, BATCH))


def objective(config):
    return functools.partial(retrieval_loss, MODEL, config, exact_teacher(1.0))


def value_and_grad(config):
    return jax.jit(jax.value_and_grad(objective(config), has_aux=True))


@pytest.fixture(scope="module")
def computed(params):
    return value_and_grad(EVERYTHING)(params, jax.tree.map(jnp.asarray, BATCH), jax.random.key(0))


def test_terms_are_those_of_the_formulas(params, computed):
    """From the model's vectors, one after the other."""
    (total, scalars), _ = computed
    batch = jax.tree.map(jnp.asarray, BATCH)
    encode = jax.jit(functools.partial(MODEL.apply, method="encode_video"))
    views = [
        encode(params, *view) for view in ((batch.frames, batch.frame_mask), (batch.second_frames, batch.second_mask))
    ]
    first, second = (np.asarray(view.levels["video"].features[:, 0], np.float64) for view in views)
    first, second = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (first, second))
    four = (first @ first.T + first @ second.T + second @ first.T + second @ second.T) / 4
    own = (first * second).sum(-1)
    real = np.arange(ROWS) < ROWS - 1
    found = (four >= own[:, None]) & real[:, None] & real[None, :] & ~np.eye(ROWS, dtype=bool)
    assert found[1, 5]
    assert found[5, 1]
    np.testing.assert_allclose(scalars["denoising/found_per_row"], found.sum() / (ROWS - 1), rtol=1e-6)
    np.testing.assert_allclose(scalars["denoising/view_cosine"], own[real].mean(), atol=1e-5)
    assert scalars["denoising/true_per_row"] == np.float32(2 / (ROWS - 1))
    assert scalars["denoising/recall"] == 1
    np.testing.assert_allclose(scalars["denoising/precision"], 2 / found.sum(), rtol=1e-6)

    alignments = jax.jit(MODEL.apply)(params, batch)
    mask = losses.negatives_mask(batch.video_index, batch.example_mask)
    positives = jnp.asarray(found | np.eye(ROWS, dtype=bool))
    scale = jnp.exp(params["params"]["logit_scale"])
    wanted = {
        f"loss/{name}/contrastive": losses.contrastive_loss(
            scale * alignment.similarity, mask, batch.example_mask, positives
        )
        for name, alignment in alignments.items()
    }
    cosines = alignments["video"].similarity
    wanted["loss/margin"] = losses.margin_loss(cosines, mask, batch.example_mask, 0.2, positives)
    for name, value in wanted.items():
        np.testing.assert_allclose(scalars[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, sum(wanted.values()), rtol=1e-4)


def test_parts_can_be_switched_off(params, computed):
    (_, everything), _ = computed
    batch = jax.tree.map(jnp.asarray, BATCH)
    (total, plain), _ = value_and_grad(PLAIN)(params, batch, jax.random.key(0))
    assert not [name for name in plain if name.startswith(("denoising/", "loss/margin"))]
    np.testing.assert_allclose(
        total, sum(plain[f"loss/{name}/contrastive"] for name in ("frame", "clip", "video")), rtol=1e-6
    )
    assert abs(plain["loss/frame/contrastive"] - everything["loss/frame/contrastive"]) > 1e-3


def test_gradients_are_finite_and_reach_every_part(computed):
    _, gradients = computed
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        # The softmax of token weights and of attention ignores a constant.
        if not any(part in name for part in ("_weight_", "['key']['bias']", "in_proj")):
            assert np.any(leaf), name


def test_eight_devices_give_the_numbers_of_one(params, computed):
    (_, wanted), wanted_gradients = computed
    mesh = make_mesh()
    assert mesh.size == ROWS
    (_, got), gradients = value_and_grad(EVERYTHING)(params, put_batch(BATCH, mesh), jax.random.key(0))
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, float(np.abs(b).max())))


def test_padding_changes_nothing(params, computed):
    """More words, frames and masked rows, full of garbage."""
    (_, wanted), _ = computed
    rng = np.random.default_rng(0)

    def more(x, axis, value):
        return np.concatenate([x, np.full_like(np.take(x, [0, 1], axis), value)], axis)

    padded = BATCH._replace(
        token_ids=more(BATCH.token_ids, 1, 7),
        text_mask=more(BATCH.text_mask, 1, False),
        frames=more(BATCH.frames, 1, 99),
        second_frames=more(BATCH.second_frames, 1, 77),
        frame_mask=more(BATCH.frame_mask, 1, False),
        second_mask=more(BATCH.second_mask, 1, False),
    )
    rows = jax.tree.map(lambda x: more(x, 0, x[rng.integers(ROWS, size=2)]), padded)
    rows = rows._replace(example_mask=more(BATCH.example_mask, 0, False))
    _, got = jax.jit(objective(EVERYTHING))(params, jax.tree.map(jnp.asarray, rows), jax.random.key(0))
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_view_and_several_tokens_are_named(params):
    def trace(model, batch):
        loss = functools.partial(retrieval_loss, model, EVERYTHING, exact_teacher(1.0))
        shapes = jax.eval_shape(model.init, jax.random.key(0), jax.tree.map(jnp.asarray, batch))
        return jax.eval_shape(loss, shapes, jax.tree.map(jnp.asarray, batch), jax.random.key(0))

    with pytest.raises(ValueError, match="needs two views of every video, but the batch has one"):
        trace(MODEL, FIRST)
    two = dataclasses.replace(MODEL.config, levels=MODEL.config.levels[:2])
    with pytest.raises(ValueError, match="the last level has 2 tokens a side, but label denoising and margin need one"):
        trace(HCMI(two), BATCH)
