"""The answer head against its formula; the model around it keeps HBI's names and numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hbi_jax.models.answer import AnswerHBI, AnswerHead
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import path_name
from hbi_jax.types import WeightedTokens
from tests.tiny_hbi import CONFIG, make_batch, random_params

ANSWERS = 7
BATCH = jax.tree.map(jnp.asarray, make_batch(4))
# The towers' layers and the merge have their own tests.
SMALL = dataclasses.replace(CONFIG, clip=dataclasses.replace(CONFIG.clip, text_layers=0, vision_layers=0))
MODEL = AnswerHBI(SMALL, num_answers=ANSWERS, dropout_rate=0.5)


def tokens(seed, count, real):
    rng = np.random.default_rng(seed)
    mask = np.arange(count) < np.array([count, real])[:, None]
    features = rng.normal(size=(2, count, 8)).astype(np.float32)
    return WeightedTokens(jnp.asarray(features), jnp.asarray(mask), jnp.zeros((2, count)))


TEXT, VIDEO = tokens(0, 4, 2), tokens(1, 3, 3)


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def head(params, text, video, padding):
    """One row after the other, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    out = []
    for row in range(2):
        sides = []
        for side, rows in (("video", video), ("text", text)):
            x, mask = np.asarray(rows.features[row], np.float64), np.asarray(rows.mask[row])
            weight = np.exp(
                linear(np.maximum(linear(x, p[f"{side}_weight"]["hidden"]), 0), p[f"{side}_weight"]["logit"])
            )
            if padding == "masked":
                weight = weight * mask[:, None]
            mean = (weight / weight.sum() * x * mask[:, None]).sum(0)
            sides.append(linear(mean, p[f"{side}_proj"]))
        out.append(linear(np.maximum(linear(np.concatenate(sides), p["hidden"]), 0), p["logits"]))
    return np.stack(out)


@pytest.mark.parametrize("padding", ["masked", "published"])
def test_the_head_is_its_formula(padding):
    module = AnswerHead(ANSWERS, padding=padding)
    params = random_params(module, TEXT, VIDEO)
    got = jax.jit(module.apply)(params, TEXT, VIDEO)
    np.testing.assert_allclose(got, head(params, TEXT, VIDEO, padding), atol=1e-5)
    assert params["params"]["hidden"]["kernel"].shape == (8 * 8, 16 * 8)


def test_padding_has_no_part_unless_as_published():
    other = TEXT._replace(features=jnp.where(TEXT.mask[..., None], TEXT.features, 5.0))
    params = random_params(AnswerHead(ANSWERS), TEXT, VIDEO)
    for padding, same in (("masked", True), ("published", False)):
        apply = jax.jit(AnswerHead(ANSWERS, padding=padding).apply)
        change = np.abs(apply(params, TEXT, VIDEO) - apply(params, other, VIDEO)).max()
        assert (change == 0) == same


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, BATCH)


def apart(model, params, batch, *rates):
    """Answers to questions and videos that were encoded apart."""
    text = model.apply(params, batch.token_ids, batch.text_mask, method=HBI.encode_text)
    video = model.apply(params, batch.frames, batch.frame_mask, method=HBI.encode_video)
    by_level = [dict(zip(text.levels, rate, strict=True)) for rate in rates]
    return [model.apply(params, text, video, rate, method=AnswerHBI.answer_questions) for rate in by_level]


@pytest.fixture(scope="module")
def answered(params):
    def run(params, batch, key):
        dropped = MODEL.apply(params, batch, deterministic=False, rngs={"dropout": key})[1]
        return MODEL.apply(params, batch), dropped, apart(MODEL, params, batch, (1.0, 0.0), (0.6, 0.4))

    return jax.jit(run)(params, BATCH, jax.random.key(0))


def test_it_is_hbi_with_heads(params, answered):
    """A retrieval model's parameters are found under the same names, and align alike."""
    hbi = HBI(SMALL)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(hbi.init, jax.random.key(0), BATCH))
    heads = {f"answer_{level.name}" for level in SMALL.levels}
    body = {"params": {name: value for name, value in params["params"].items() if name not in heads}}
    assert set(params["params"]) == set(body["params"]) | heads
    assert jax.tree.map(jnp.shape, body) == shapes
    wanted = jax.jit(hbi.apply)(body, BATCH)
    for level, alignment in answered[0][0].items():
        np.testing.assert_allclose(alignment.similarity, wanted[level].similarity, atol=1e-6)


def test_levels_are_summed(answered):
    (_, answers), _, (first, both) = answered
    np.testing.assert_allclose(first, answers["entity"], atol=1e-5)
    np.testing.assert_allclose(both, 0.6 * answers["entity"] + 0.4 * answers["action"], atol=1e-5)
    assert np.abs(answers["entity"] - answers["action"]).max() > 1e-2


def test_dropout_drops_in_training_alone(answered):
    """Half of what goes into the classifier, so that the answers change visibly."""
    (_, answers), dropped, _ = answered
    assert np.abs(answers["entity"] - dropped["entity"]).max() > 0.1


def test_reconstructed_tokens_are_what_is_answered_from():
    """Encoded apart as in training, and neither as without reconstruction."""
    model = AnswerHBI(dataclasses.replace(SMALL, reconstruction=True, gate_features=4), num_answers=ANSWERS)
    params, rates = random_params(model, BATCH), (0.6, 0.4)

    @jax.jit
    def run(params, batch):
        return model.apply(params, batch)[1], *apart(model, params, batch, rates), *apart(MODEL, params, batch, rates)

    answers, both, plain = run(params, BATCH)
    np.testing.assert_allclose(both, 0.6 * answers["entity"] + 0.4 * answers["action"], atol=1e-5)
    assert np.abs(both - plain).max() > 1e-2


def test_a_fresh_model_without_videos_has_gradients_of_usual_size():
    """Frames without positions are equal tokens; of equal features, norms would multiply the gradient."""
    relative = dataclasses.replace(SMALL, frame_layers=2, frame_positions="relative")
    model = AnswerHBI(relative, num_answers=ANSWERS, question_only=True)

    def loss(params):
        alignments, answers = model.apply(params, BATCH)
        return sum(jnp.sum(jnp.sin(part)) for part in (alignments["entity"].similarity, *answers.values()))

    def fresh(path, leaf):
        return np.zeros_like(leaf) if path_name(path).endswith("bias") else leaf

    params = jax.tree_util.tree_map_with_path(fresh, random_params(model, BATCH))
    norm = jax.jit(lambda params: optax.tree.norm(jax.grad(loss)(params)))(params)
    assert 0.1 < norm < 1e3
