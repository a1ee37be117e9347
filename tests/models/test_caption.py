"""The caption decoder against its formula; the model around it keeps HBI's names and numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.caption import CaptionDecoder, CaptionHBI
from hbi_jax.models.hbi import HBI
from hbi_jax.types import WeightedTokens
from tests.tiny_hbi import CONFIG, make_batch, random_params

# The decoder alone: two rows of five tokens and three frames, the second of which are padded.
DECODER = CaptionDecoder(
    num_layers=2, num_heads=2, num_features=8, vocab_size=11, max_words=6, max_frames=4, dropout_rate=0.5
)
IDS = np.array([[9, 1, 2, 3, 10], [9, 4, 10, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
FRAMES = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
FRAME_MASK = np.array([[1, 1, 1], [1, 1, 0]], bool)


def tokens(features, mask):
    return WeightedTokens(jnp.asarray(features), jnp.asarray(mask), jnp.zeros(mask.shape))


VIDEO = tokens(FRAMES, FRAME_MASK)


@pytest.fixture(scope="module")
def decoder():
    params = random_params(DECODER, jnp.asarray(IDS), jnp.asarray(MASK), VIDEO)
    apply = jax.jit(DECODER.apply)
    return params, lambda ids, mask, video: np.asarray(apply(params, jnp.asarray(ids), jnp.asarray(mask), video))


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def attend(query, key, value, visible):
    """Two heads of four features each."""
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        logits = np.where(visible, query[:, part] @ key[:, part].T / 2, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
    return np.concatenate(heads, -1)


def formula(params, ids, frames):
    """One caption and one video without padding, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    x = p["token_embedding"]["embedding"][ids] + p["positional_embedding"][: len(ids)]
    seen = norm(frames.astype(np.float64), p["ln_video"]) + p["video_positional_embedding"][: len(frames)]
    for layer in range(2):
        block = p[f"resblocks_{layer}"]
        query, key, value = np.split(linear(norm(x, block["ln_1"]), block["attn"]["in_proj"]), 3, -1)
        found = attend(query, key, value, np.tril(np.ones((len(ids), len(ids)), bool)))
        x = x + linear(found, block["attn"]["out_proj"])
        key, value = np.split(linear(seen, p[f"video_proj_{layer}"]), 2, -1)
        found = attend(linear(norm(x, block["ln_2"]), block["video_attn"]["in_proj"]), key, value, True)
        x = x + linear(found, block["video_attn"]["out_proj"])
        h = linear(norm(x, block["ln_3"]), block["mlp_fc"])
        x = x + linear(h / (1 + np.exp(-1.702 * h)), block["mlp_proj"])
    return norm(x, p["ln_final"]) @ p["token_embedding"]["embedding"].T


def test_the_decoder_is_its_formula(decoder):
    """The padded row is the row without padding."""
    params, apply = decoder
    got = apply(IDS, MASK, VIDEO)
    assert got.dtype == np.float32
    for row in range(2):
        length = MASK[row].sum()
        wanted = formula(params, IDS[row, :length], FRAMES[row, FRAME_MASK[row]])
        np.testing.assert_allclose(got[row, :length], wanted, atol=2e-5)


def test_what_padding_holds_and_what_comes_later_have_no_part(decoder):
    _, apply = decoder
    before = apply(IDS, MASK, VIDEO)
    ids = np.where(MASK, IDS, 7)
    ids[0, 3] = 5
    after = apply(ids, MASK, tokens(np.where(FRAME_MASK[..., None], FRAMES, 9.0), FRAME_MASK))
    np.testing.assert_array_equal(after[0, :3], before[0, :3])
    np.testing.assert_array_equal(after[1, :3], before[1, :3])
    assert np.all(np.abs(after[0, 3:] - before[0, 3:]).max(-1) > 1e-2)


def test_a_caption_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match=r"captions of 7 tokens, but the decoder has positions for 6; use config.capt"):
        jax.eval_shape(DECODER.init, jax.random.key(0), jnp.zeros((1, 7), int), jnp.ones((1, 7), bool), VIDEO)


BATCH = jax.tree.map(jnp.asarray, make_batch(4))
# The towers' layers, the merge and the header have their own tests.
SMALL = dataclasses.replace(
    CONFIG,
    clip=dataclasses.replace(CONFIG.clip, text_layers=0, vision_layers=0),
    levels=CONFIG.levels[:1],
    frame_layers=0,
    header="none",
    reconstruction=True,
)
MODEL = CaptionHBI(SMALL, dropout_rate=0.5)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL, BATCH)


@pytest.fixture(scope="module")
def computed(params):
    def run(params, batch, key):
        video = MODEL.apply(params, batch.frames, batch.frame_mask, method="encode_video").levels["entity"]
        alone = MODEL.apply(params, video, batch.token_ids, batch.text_mask, method="caption_logits")
        dropped = MODEL.apply(params, batch, deterministic=False, rngs={"dropout": key})[1]
        return MODEL.apply(params, batch), alone, dropped, video

    return jax.jit(run)(params, BATCH, jax.random.key(0))


def test_it_is_hbi_with_a_decoder(params, computed):
    """A retrieval model's parameters are found under the same names, and align alike."""
    hbi = HBI(SMALL)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(hbi.init, jax.random.key(0), BATCH))
    body = {"params": {name: value for name, value in params["params"].items() if name != "caption"}}
    assert set(params["params"]) == set(body["params"]) | {"caption"}
    assert jax.tree.map(jnp.shape, body) == shapes
    wanted = jax.jit(hbi.apply)(body, BATCH)
    for level, alignment in computed[0][0].items():
        np.testing.assert_allclose(alignment.similarity, wanted[level].similarity, atol=1e-6)


def test_it_reads_single_modal_frames_of_the_first_level(computed):
    """As where there is no text, though the alignments are of reconstructed ones; the last token predicts nothing."""
    (alignments, logits), alone, _, video = computed
    assert logits.shape == (4, 7, CONFIG.clip.vocab_size)
    real = BATCH.text_mask[:, :-1]
    np.testing.assert_allclose(logits[real], alone[:, :-1][real], atol=1e-5)
    assert np.abs(alignments["entity"].video.features - video.features).max() > 1e-2


def test_dropout_drops_in_training_alone(computed):
    (_, logits), _, dropped, _ = computed
    assert np.abs(logits - dropped).max() > 0.1


def test_bfloat16_gives_float32_logits(params, computed):
    """Within 5 % of their spread."""
    model = MODEL.clone(config=dataclasses.replace(SMALL, dtype="bfloat16"))
    *_, video = computed
    logits = jax.jit(lambda: model.apply(params, video, BATCH.token_ids, BATCH.text_mask, method="caption_logits"))()
    assert logits.dtype == jnp.float32
    real = BATCH.text_mask
    difference = np.asarray(logits)[real] - np.asarray(computed[1])[real]
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.05 * np.std(computed[1])
