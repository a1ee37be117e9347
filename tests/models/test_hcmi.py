"""HCMI: the aggregation layer by its formula, and that padding, company and compilation change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.models.config import CLIPConfig, HBIConfig, Level
from hbi_jax.models.hbi import HBI
from hbi_jax.models.hcmi import HCMI, Aggregation
from hbi_jax.models.methods import make_model
from hbi_jax.types import Tokens
from tests.tiny_hbi import CONFIG, make_batch, random_params

LEVELS = (Level("frame"), Level("clip", 3, 2), Level("video", 1, 1))
HCMI_CONFIG = dataclasses.replace(CONFIG, method="hcmi", levels=LEVELS, frame_layers=0, header="none")
ROWS = 4
BATCH = make_batch(ROWS)


@pytest.fixture(scope="module")
def params():
    return random_params(HCMI(HCMI_CONFIG), jax.tree.map(jnp.asarray, BATCH))


@pytest.fixture(scope="module")
def align(params):
    apply = jax.jit(HCMI(HCMI_CONFIG).apply)
    return lambda batch: jax.tree.map(np.asarray, apply(params, jax.tree.map(jnp.asarray, batch)))


@pytest.fixture(scope="module")
def aligned(align):
    return align(BATCH)


def norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def test_the_method_names_the_model():
    assert type(make_model(HCMI_CONFIG)) is HCMI
    assert type(make_model(CONFIG)) is HBI


def test_new_tokens_are_weighted_means_of_the_tokens():
    """Without self-attention, written out for one row with one padded token."""
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype(np.float32)
    tokens = Tokens(jnp.asarray(x), jnp.array([[True, True, True, False]]))
    layer = Aggregation(2, 2, num_layers=0)
    params = random_params(layer, tokens)
    merged, mask = layer.apply(params, tokens).tokens
    p = params["params"]
    keys = norm(x[0], p["norm"]["scale"], p["norm"]["bias"]) @ p["key"]["kernel"] + p["key"]["bias"]
    attention = np.exp(p["queries"] @ keys[:3].T / np.sqrt(8))
    attention /= attention.sum(-1, keepdims=True)
    np.testing.assert_allclose(merged[0], attention @ x[0, :3], atol=1e-5)
    assert mask.all()


def test_a_fresh_layer_starts_in_the_space_of_its_tokens():
    """Its self-attention does nothing yet: equal tokens give the same token again."""
    token = np.random.default_rng(0).normal(size=8).astype(np.float32)
    tokens = Tokens(jnp.broadcast_to(token, (1, 5, 8)), jnp.ones((1, 5), bool))
    layer = Aggregation(2, 2)
    merged, _ = layer.apply(layer.init(jax.random.key(0), tokens), tokens).tokens
    np.testing.assert_allclose(merged[0], [token, token], atol=1e-5)


def test_a_row_without_tokens_is_finite_and_masked():
    x = jax.random.normal(jax.random.key(0), (2, 4, 8))
    mask = jnp.array([[True] * 4, [False] * 4])
    layer = Aggregation(2, 2)
    params = random_params(layer, Tokens(x, mask))

    def energy(params, x):
        merged, is_real = layer.apply(params, Tokens(x, mask)).tokens
        return jnp.sum(merged**2), (merged, is_real)

    differentiate = jax.jit(jax.value_and_grad(energy, argnums=(0, 1), has_aux=True))
    (_, (merged, is_real)), gradients = differentiate(params, x)
    assert is_real.tolist() == [[True, True], [False, False]]
    assert np.any(merged[0])
    assert not np.any(merged[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.any(gradients[1][1])


def test_more_clips_than_frames_are_named():
    config = dataclasses.replace(HCMI_CONFIG, levels=(Level("frame"), Level("clip", 3, 6)))
    with pytest.raises(ValueError, match="num_tokens=6 of 5 tokens is impossible; use at most 5"):
        jax.eval_shape(HCMI(config).init, jax.random.key(0), jax.tree.map(jnp.asarray, BATCH))


def test_the_last_level_is_a_cosine(aligned):
    """And the others are not constant."""
    video = aligned["video"]
    a, b = (tokens.features[:, 0] for tokens in (video.text, video.video))
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(video.similarity, a @ b.T, atol=1e-5)
    assert list(aligned) == ["frame", "clip", "video"]
    assert aligned["clip"].pair_similarity.shape == (ROWS, 3, 2)
    for alignment in aligned.values():
        assert np.std(alignment.similarity) > 1e-2


def test_padding_and_company_change_nothing(align, aligned):
    """One pair alone and cut to its own length, against its place in the batch; and garbage in the padding."""
    row, words, frames = 1, 5, 3
    cut = jax.tree.map(lambda x: x[row : row + 1], BATCH)
    cut = cut._replace(
        token_ids=cut.token_ids[:, :words],
        text_mask=cut.text_mask[:, :words],
        frames=cut.frames[:, :frames],
        frame_mask=cut.frame_mask[:, :frames],
    )
    noise = np.random.default_rng(1).integers(0, 256, BATCH.frames.shape).astype(np.uint8)
    garbage = BATCH._replace(frames=np.where(BATCH.frame_mask[..., None, None, None], BATCH.frames, noise))
    alone, noisy = align(cut), align(garbage)
    for name, wanted in aligned.items():
        np.testing.assert_allclose(alone[name].similarity[0, 0], wanted.similarity[row, row], atol=1e-5)
        np.testing.assert_allclose(noisy[name].similarity, wanted.similarity, atol=1e-5)


def test_compiled_is_eager():
    tokens = Tokens(
        jax.random.normal(jax.random.key(1), (2, 4, 8)), jnp.array([[True] * 4, [True, True, False, False]])
    )
    layer = Aggregation(3, 2)
    params = random_params(layer, tokens)
    got, wanted = jax.jit(layer.apply)(params, tokens), layer.apply(params, tokens)
    np.testing.assert_allclose(got.tokens.features, wanted.tokens.features, atol=1e-5)


def test_a_gallery_is_scored_like_a_batch(params, aligned):
    """By blocks of videos, with the three levels at their rates."""
    rates = {"frame": 1 / 3, "clip": 1 / 3, "video": 1 / 3}

    @functools.partial(jax.jit, static_argnums=1)
    def score(params, video_block):
        model, batch = HCMI(HCMI_CONFIG), jax.tree.map(jnp.asarray, BATCH)
        text = model.apply(params, batch.token_ids, batch.text_mask, method="encode_text")
        video = model.apply(params, batch.frames, batch.frame_mask, method="encode_video")
        return model.apply(params, text, video, rates, video_block, method="gallery_similarity")

    wanted = sum(alignment.similarity for alignment in aligned.values()) / 3
    for video_block in (1, 3, 16):
        np.testing.assert_allclose(score(params, video_block), wanted, atol=1e-5)


def test_bfloat16_is_close_to_float32(params, aligned):
    config = dataclasses.replace(HCMI_CONFIG, dtype="bfloat16")
    got = jax.jit(HCMI(config).apply)(params, jax.tree.map(jnp.asarray, BATCH))
    assert got["video"].video.features.dtype == jnp.bfloat16
    for name, alignment in got.items():
        assert alignment.similarity.dtype == jnp.float32
        np.testing.assert_allclose(alignment.similarity, aligned[name].similarity, atol=0.1)


def test_a_single_token_has_no_weight():
    shapes = jax.eval_shape(HCMI(HCMI_CONFIG).init, jax.random.key(0), jax.tree.map(jnp.asarray, BATCH))["params"]
    parts = {f"{side}_{part}" for side in ("text", "video") for part in ("merge_clip", "merge_video")}
    weights = {f"{side}_weight_{level}" for side in ("text", "video") for level in ("frame", "clip")}
    assert set(shapes) == parts | weights | {"text_tower", "vision_tower", "frame_transformer", "logit_scale"}


def test_parameters_at_the_size_of_vit_b_32():
    """15.8 million are added to CLIP's; the paper says about 18 million."""
    levels = (Level("frame"), Level("clip", 8, 3), Level("video", 1, 1))
    config = HBIConfig(method="hcmi", levels=levels, frame_layers=0, header="none", max_frames=12)
    small = dataclasses.replace(config.clip, vision_layers=0, text_layers=0, vocab_size=64)
    config = dataclasses.replace(config, clip=small)
    assert small.embed_features == CLIPConfig().embed_features == 512
    batch = make_batch(2)._replace(frames=np.zeros((2, 5, 224, 224, 3), np.uint8))
    shapes = jax.eval_shape(HCMI(config).init, jax.random.key(0), jax.tree.map(jnp.asarray, batch))["params"]
    towers = ("text_tower", "vision_tower", "logit_scale")
    added = sum(x.size for name, part in shapes.items() if name not in towers for x in jax.tree.leaves(part))
    block, keys, norms = 12 * 512**2 + 9 * 512 + 4 * 512, 512**2 + 512, 2 * 512
    weights = 512 * 1024 + 1024 + 1024 + 1
    assert added == 4 * (block + keys + norms) + (8 + 3 + 1 + 1) * 512 + 4 * weights + 12 * 512
    assert round(added / 1e6, 1) == 15.8
