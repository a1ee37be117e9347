"""The objective of captions: which terms there are, how they are weighed, on one device and on eight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import losses
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.config import Level
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from hbi_jax.tasks.captions.batch import CaptionBatch
from hbi_jax.tasks.captions.config import CaptionLossConfig
from hbi_jax.tasks.captions.objective import caption_loss
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.teacher import exact_teacher
from tests.tiny_hbi import CONFIG, make_batch, random_params

SMALL = dataclasses.replace(
    CONFIG,
    clip=dataclasses.replace(CONFIG.clip, text_layers=0, vision_layers=0),
    levels=(Level("entity"), Level("action", 0, 3)),
    frame_layers=0,
    header="none",
)
MODEL = CaptionHBI(SMALL, dropout_rate=0.5)
ROWS = 8
BATCH = make_batch(ROWS)._replace(example_mask=np.arange(ROWS) < ROWS - 1)
TEACHER = exact_teacher(100.0)
EVERYTHING = CaptionLossConfig(
    interaction_weight=2.0, distillation_weight=3.0, alignment_weight=0.5, caption_weight=7.0
)
CAPTIONS = CaptionLossConfig(alignment_weight=0.0, label_smoothing=0.1)
KEY = jax.random.key(0)


def loss_of(config):
    return functools.partial(caption_loss, MODEL, config, TEACHER)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, jax.tree.map(jnp.asarray, BATCH))


@pytest.fixture(scope="module")
def compute():
    """The whole loss and its terms."""
    return jax.jit(loss_of(EVERYTHING))


@pytest.fixture(scope="module")
def learn():
    """The loss without alignments, its terms, and the norms of the gradient's parts."""

    @jax.jit
    def run(params, batch):
        (total, terms), gradient = jax.value_and_grad(loss_of(CAPTIONS), has_aux=True)(params, batch, KEY)
        squares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), gradient["params"])
        return total, terms, {name: sum(jax.tree.leaves(part)) for name, part in squares.items()}

    return run


def test_terms_add_up(compute, params):
    """Everything of the alignments at half weight."""
    total, terms = compute(params, BATCH, KEY)
    weights = {"contrastive": 0.5, "interaction": 1.0, "distillation": 1.5, "caption": 7.0}
    parts = {name: value for name, value in terms.items() if name not in ("loss/total", "logit_scale")}
    wanted = {f"loss/{level}/{term}" for level in ("entity", "action") for term in ("contrastive", "interaction")}
    assert set(parts) == wanted | {"loss/action/distillation", "loss/caption"}
    np.testing.assert_allclose(
        total, sum(weights[name.split("/")[-1]] * value for name, value in parts.items()), rtol=1e-5
    )
    assert terms["loss/total"] == total


def test_alignment_is_that_of_retrieval_and_dropout_has_a_key(compute, params):
    _, terms = compute(params, BATCH, KEY)
    _, others = compute(params, BATCH, jax.random.key(1))
    body = {"params": {name: value for name, value in params["params"].items() if name != "caption"}}
    _, wanted = jax.jit(functools.partial(retrieval_loss, HBI(SMALL), EVERYTHING, TEACHER))(body, BATCH, KEY)
    for name in wanted.keys() - {"loss/total", "logit_scale"}:
        np.testing.assert_allclose(terms[name], wanted[name], rtol=1e-5)
        assert terms[name] == others[name]
    assert terms["loss/caption"] != others["loss/caption"]


def test_captions_alone(learn, params):
    """The cross-entropy of the next tokens; nothing is computed of the alignments, and nothing learns from them."""
    total, terms, squares = learn(params, BATCH)
    assert set(terms) == {"loss/total", "logit_scale", "loss/caption"}
    np.testing.assert_allclose(total, 3.3 * terms["loss/caption"], rtol=1e-6)
    learning = {name for name, square in squares.items() if square > 0}
    assert learning == {"caption", "vision_tower", "frame_transformer"}

    def plain(params, batch):
        rngs = {"dropout": jax.random.fold_in(KEY, 2)}
        logits = MODEL.apply(params, batch, deterministic=False, rngs=rngs)[1]
        mask = batch.text_mask[:, 1:] & batch.example_mask[:, None]
        log_p = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(log_p, batch.token_ids[:, 1:, None], axis=2)[..., 0]
        return losses.masked_mean(-(0.9 * right + 0.1 * log_p.mean(-1)), mask)

    np.testing.assert_allclose(terms["loss/caption"], jax.jit(plain)(params, BATCH), rtol=1e-5)


def test_a_vocabulary_is_a_softmax_over_its_tokens(params):
    """Those of the batch."""
    few = tuple(np.union1d(np.asarray(BATCH.token_ids), 0).tolist())
    model = dataclasses.replace(MODEL, vocabulary=few)
    config = dataclasses.replace(CAPTIONS, label_smoothing=0.0)
    got, _ = jax.jit(functools.partial(caption_loss, model, config, TEACHER))(params, BATCH, KEY)
    others = np.ones((1, 1, SMALL.clip.vocab_size), bool)
    others[..., list(few)] = False
    assert others.sum() > 5

    def plain(params, batch):
        rngs = {"dropout": jax.random.fold_in(KEY, len(SMALL.levels))}
        logits = MODEL.apply(params, batch, deterministic=False, rngs=rngs)[1]
        targets, mask = batch.token_ids[:, 1:], batch.text_mask[:, 1:]
        return losses.caption_cross_entropy(jnp.where(others, -jnp.inf, logits), targets, mask, batch.example_mask)

    np.testing.assert_allclose(got, 3.3 * jax.jit(plain)(params, BATCH), rtol=1e-5)


def test_eight_devices_are_one(learn, params):
    mesh = make_mesh(8, 1)
    placed = jax.device_put(params, replicated(mesh)), jax.device_put(BATCH, batch_sharding(mesh))
    for got, wanted in zip(*(jax.tree.leaves(learn(*inputs)) for inputs in (placed, (params, BATCH))), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)


def test_several_captions_of_a_video_are_as_many_rows(params):
    """The row's own, that of the next row, and none: the mean over all their tokens, and nothing else changes."""
    model = CaptionHBI(SMALL, dropout_rate=0.0)
    texts = BATCH.token_ids, BATCH.text_mask
    others = [np.roll(x, -1, axis=0) for x in texts]
    none = (np.zeros_like(x) for x in texts)
    several = CaptionBatch(BATCH, *(np.stack(triple, axis=1) for triple in zip(texts, others, none, strict=True)))

    @jax.jit
    def run(params, *batches):
        return [caption_loss(model, EVERYTHING, TEACHER, params, batch, KEY)[1] for batch in batches]

    swapped = BATCH._replace(token_ids=others[0], text_mask=others[1])
    both, own, other = run(params, several, BATCH, swapped)
    first, second = (x[BATCH.example_mask, 1:].sum() for x in (BATCH.text_mask, others[1]))
    assert abs(own["loss/caption"] - other["loss/caption"]) > 1e-3
    wanted = (first * own["loss/caption"] + second * other["loss/caption"]) / (first + second)
    np.testing.assert_allclose(both["loss/caption"], wanted, rtol=1e-5)
    for name in own.keys() - {"loss/caption", "loss/total"}:
        np.testing.assert_allclose(both[name], own[name], rtol=1e-5, err_msg=name)
