"""The motion loss: texts match their videos better than the same frames, each on its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import losses
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.teacher import exact_teacher
from tests.tiny_hbi import CONFIG, make_batch, random_params

ROWS = 8
BATCH = make_batch(ROWS)._replace(example_mask=np.arange(ROWS) < ROWS - 1)
LOSS = AlignmentLossConfig(interaction_weight=0.0, distillation_weight=0.0, motion_weight=0.5)
MODELS = {
    "v1": HBI(dataclasses.replace(CONFIG, frame_window=1, frame_past=1)),
    "v2": HBI(dataclasses.replace(CONFIG, reconstruction=True, gate_features=8)),
}


def value_and_grad(model):
    loss = functools.partial(retrieval_loss, model, LOSS, exact_teacher(1.0))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module", params=MODELS)
def computed(request):
    model, batch = MODELS[request.param], jax.tree.map(jnp.asarray, BATCH)
    params = random_params(model, batch)
    return model, params, value_and_grad(model)(params, batch, jax.random.key(0))


def test_it_compares_with_videos_of_one_frame(computed):
    """A frame alone is a video of that frame, at its own position: every other frame is masked."""
    model, params, ((total, scalars), _) = computed
    batch = jax.tree.map(jnp.asarray, BATCH)
    apply = jax.jit(model.apply, static_argnames=("method",))
    text = apply(params, batch.token_ids, batch.text_mask, method="encode_text")
    frames = batch.frame_mask.shape[1]
    alone = [
        apply(params, batch.frames, batch.frame_mask & (jnp.arange(frames) == frame)[None], method="encode_video")
        for frame in range(frames)
    ]
    tokens = [video.levels["entity"] for video in alone]
    joined = tokens[0]._replace(
        features=jnp.stack([each.features[:, frame] for frame, each in enumerate(tokens)], 1),
        logits=jnp.stack([each.logits[:, frame] for frame, each in enumerate(tokens)], 1),
        mask=batch.frame_mask,
    )
    whole = apply(params, batch.frames, batch.frame_mask, method="encode_video")
    still = whole._replace(levels=whole.levels | {"entity": joined})
    rates = {"entity": 1.0, "action": 0.0}
    similarity = jax.jit(functools.partial(model.apply, level_rates=rates, method="gallery_similarity"))
    scores = [np.diagonal(similarity(params, text, video)) for video in (whole, still)]
    margins = np.asarray(scores[1], np.float64) - scores[0]
    scale = np.exp(params["params"]["logit_scale"])
    wanted = np.log1p(np.exp(scale * margins))[: ROWS - 1].mean()
    np.testing.assert_allclose(scalars["loss/entity/motion"], wanted, rtol=1e-5)
    others = sum(scalars[f"loss/{level}/contrastive"] for level in ("entity", "action"))
    np.testing.assert_allclose(total, others + 0.5 * scalars["loss/entity/motion"], rtol=1e-6)


def test_gradients_are_finite_and_reach_the_frame_transformer(computed):
    _, _, (_, gradients) = computed
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["params"]["frame_transformer"]["transformer"]))


def test_eight_devices_give_the_numbers_of_one(computed):
    model, params, ((_, wanted), wanted_gradients) = computed
    mesh = make_mesh()
    assert mesh.size == ROWS
    (_, got), gradients = value_and_grad(model)(params, put_batch(BATCH, mesh), jax.random.key(0))
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted_gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, float(np.abs(b).max())))


def test_the_loss_by_hand():
    moving, still = jnp.array([0.5, 0.2, 0.9]), jnp.array([0.4, 0.2, 0.0])
    found = losses.motion_loss(moving, still, jnp.float32(10.0), jnp.array([True, True, False]))
    assert found == pytest.approx((np.log1p(np.exp(-1.0)) + np.log(2)) / 2, rel=1e-6)
