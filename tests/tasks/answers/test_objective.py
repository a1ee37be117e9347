"""The objective of answers: which terms there are, how they are weighed, and whom they teach."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.answer import AnswerHBI
from hbi_jax.models.config import Level
from hbi_jax.models.hbi import HBI
from hbi_jax.tasks.answers.batch import AnswerBatch
from hbi_jax.tasks.answers.config import AnswerLossConfig
from hbi_jax.tasks.answers.objective import answer_loss
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.teacher import exact_teacher
from tests.tiny_hbi import CONFIG, make_batch, random_params

SMALL = dataclasses.replace(
    CONFIG,
    clip=dataclasses.replace(CONFIG.clip, text_layers=0, vision_layers=0),
    levels=(Level("entity"), Level("action", 0, 3)),
    frame_layers=0,
)
MODEL = AnswerHBI(SMALL, num_answers=5, dropout_rate=0.5)
BATCH = AnswerBatch(jax.tree.map(jnp.asarray, make_batch(4)), jnp.array([0, 3, -1, 4]))
TEACHER = exact_teacher(100.0)
WEIGHTS = {"interaction_weight": 2.0, "distillation_weight": 3.0, "alignment_weight": 0.5, "answer_weight": 7.0}


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, BATCH.batch)


@pytest.fixture(scope="module")
def compute():
    @functools.partial(jax.jit, static_argnums=0)
    def run(config, params, batch, key):
        return answer_loss(MODEL, config, TEACHER, params, batch, key)

    return run


@pytest.mark.parametrize("distil", ["similarity", "answers"])
def test_terms_add_up(compute, params, distil):
    """Alignment at half weight, distillation at its own, whatever is distilled."""
    total, terms = compute(AnswerLossConfig(**WEIGHTS, distil=distil), params, BATCH, jax.random.key(0))
    weights = {"contrastive": 0.5, "interaction": 1.0, "answer": 7.0, "distillation": 3.0}
    losses = {name: value for name, value in terms.items() if name.count("/") == 2}
    assert {name.split("/")[1] for name in losses} == {"entity", "action"}
    assert [name for name in losses if name.endswith("distillation")] == ["loss/action/distillation"]
    wanted = sum(weights[name.split("/")[2]] * value for name, value in losses.items())
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert terms["loss/total"] == total


def test_alignment_is_that_of_retrieval_and_dropout_has_a_key(compute, params):
    config = AnswerLossConfig()
    _, terms = compute(config, params, BATCH, jax.random.key(0))
    _, others = compute(config, params, BATCH, jax.random.key(1))
    key = jax.random.key(0)
    body = {"params": {name: value for name, value in params["params"].items() if not name.startswith("answer_")}}
    _, wanted = jax.jit(functools.partial(retrieval_loss, HBI(SMALL), config, TEACHER))(body, BATCH.batch, key)
    for name in wanted.keys() - {"loss/total", "logit_scale"}:
        np.testing.assert_allclose(terms[name], wanted[name], rtol=1e-5)
        assert terms[name] == others[name]
    assert terms["loss/entity/answer"] != others["loss/entity/answer"]


def test_no_weight_no_distillation(params):
    def names(**options):
        loss = functools.partial(answer_loss, MODEL, AnswerLossConfig(**options), TEACHER)
        return set(jax.eval_shape(loss, params, BATCH, jax.random.key(0))[1])

    common = {"loss/total", "logit_scale"}
    common |= {f"loss/{level}/{term}" for level in ("entity", "action") for term in ("contrastive", "answer")}
    for distil in ("similarity", "answers"):
        assert names(interaction_weight=0.0, distillation_weight=0.0, distil=distil) == common
        assert names(interaction_weight=0.0, distil=distil) == common | {"loss/action/distillation"}


def test_several_questions_of_a_video_are_as_many_rows(params):
    """The row's own and that of the next row, about the same frames: the mean of both, and nothing else changes."""
    model = AnswerHBI(SMALL, num_answers=5, dropout_rate=0.0)
    batch, answer = BATCH.batch, jnp.array([0, 3, 1, 4])
    texts = batch.token_ids, batch.text_mask
    others = [jnp.roll(x, -1, axis=0) for x in texts]
    both = AnswerBatch(
        batch,
        jnp.stack([answer, jnp.array([2, -1, 1, 0])], axis=1),
        *(jnp.stack(pair, axis=1) for pair in zip(texts, others, strict=True)),
    )

    @jax.jit
    def run(params, *batches):
        loss = functools.partial(answer_loss, model, AnswerLossConfig(), TEACHER, params, key=jax.random.key(0))
        return [loss(batch=batch)[1] for batch in batches]

    swapped = batch._replace(token_ids=others[0], text_mask=others[1])
    several, own, other = run(params, both, AnswerBatch(batch, answer), AnswerBatch(swapped, both.answer[:, 1]))
    for name in own.keys() - {"loss/total"}:
        # Of the second questions three have an answer.
        wanted = (4 * own[name] + 3 * other[name]) / 7 if name.endswith("/answer") else own[name]
        np.testing.assert_allclose(several[name], wanted, rtol=1e-4)
    assert abs(several["loss/entity/answer"] - own["loss/entity/answer"]) > 1e-3


@pytest.mark.parametrize("divergence", ["paper", "published"])
def test_questions_that_do_not_exist_teach_nothing(params, divergence):
    """Videos without a second question: every term is that of the first questions alone."""
    model = AnswerHBI(SMALL, num_answers=5, dropout_rate=0.0)
    config = AnswerLossConfig(distil="answers", divergence=divergence)
    batch = BATCH.batch
    filled = AnswerBatch(
        batch,
        jnp.stack([BATCH.answer, jnp.full(4, -1)], axis=1),
        *(jnp.stack([x, jnp.zeros_like(x)], axis=1) for x in (batch.token_ids, batch.text_mask)),
    )

    @jax.jit
    def run(batch):
        return answer_loss(model, config, TEACHER, params, batch, jax.random.key(0))[1]

    got, wanted = run(filled), run(AnswerBatch(batch, BATCH.answer))
    assert wanted["loss/action/distillation"] > 0
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4)
