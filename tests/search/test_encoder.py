"""Checkpoints opened for search: runs, converted HBI and CLIP; and their texts and videos as arrays."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hbi_jax
from hbi_jax import pretrained
from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.fields import plain
from hbi_jax.models.clip import CLIP
from hbi_jax.search.clips import read_clips
from hbi_jax.search.config import SearchConfig, SearchError
from hbi_jax.search.encoder import open_encoder
from hbi_jax.search.encodings import encode_texts, encode_videos
from hbi_jax.tasks.inference import open_run
from tests.search.conftest import MODEL, parameters, tiny_encoder
from tests.tiny_hbi import random_params

TEXTS = ["a red square slides left", "a blue circle spins"]


def test_a_run_is_searched_as_it_is_evaluated(finished):
    """Scores of the index's encoder are those of the report's gallery."""
    config, task, params = open_run(finished, "retrieval")
    source = task.source("test")
    gallery = task.evaluator.encoder.encode(params, source)
    wanted = task.evaluator.similarity(params, gallery)
    encoder = open_encoder(finished)
    assert encoder.scans_exactly
    assert encoder.level_rates == config.level_rates
    assert encoder.clips.length == config.data.num_frames / config.data.frames_per_second
    texts = encode_texts(encoder, [source.split.records[row].text for row in gallery.record_index])
    videos = encode_videos(encoder, [record.path for record in source.split.videos])
    assert list(texts.levels) == list(videos.levels) == list(config.level_rates)
    np.testing.assert_allclose(videos.pooled, gallery.video.pooled, atol=2e-5)
    encoded = encoder.texts(list(texts.names))
    frames, mask, _ = source.video_rows(np.arange(source.split.num_videos))
    clips = encoder.encoded(encoder.rows(encoder.encode_clips(frames, mask)))
    np.testing.assert_allclose(encoder.similarity(encoded, clips), wanted, atol=2e-5)


def test_a_clip_scores_by_the_mean_of_its_frames(tmp_path, rendered):
    """Zero-shot CLIP: the cosine of the sentence with the mean of the normalised frame vectors."""
    clip = MODEL.clip
    side = jnp.zeros((1, clip.image_size, clip.image_size, 3), jnp.uint8)
    params = random_params(CLIP(clip), jnp.zeros((1, 5), jnp.int32), jnp.ones((1, 5), bool), side)
    pretrained.save(tmp_path / "clip", pretrained.Pretrained("clip", plain(clip), params))
    encoder = open_encoder(tmp_path / "clip", SearchConfig(num_words=12, num_frames=4, clip_seconds=3.0))
    videos = sorted(rendered.glob("video*.mp4"))
    encoded = encode_videos(encoder, videos)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    apply = jax.jit(CLIP(clip).apply, static_argnames=("method",))
    frames = encoded.levels["frames"]
    pixels, real = _clips(encoder, videos)
    for images, mask, features, mean in zip(pixels, real, frames.features, encoded.pooled, strict=True):
        wanted = unit(np.asarray(apply(params, jnp.asarray(images[mask]), method="encode_image")))
        np.testing.assert_allclose(features[mask], wanted, atol=2e-5)
        np.testing.assert_allclose(mean, wanted.mean(0), atol=2e-5)
    texts = encode_texts(encoder, TEXTS)
    token_ids, mask = encoder.tokenizer.encode(TEXTS)
    _, sentences = apply(params, jnp.asarray(token_ids), jnp.asarray(mask), method="encode_text")
    np.testing.assert_allclose(texts.pooled, sentences, atol=2e-5)
    rows = encoder.encoded(encoder.rows(encoder.encode_clips(pixels, real)))
    scores = encoder.similarity(encoder.texts(TEXTS), rows)
    np.testing.assert_allclose(scores, unit(texts.pooled) @ unit(encoded.pooled).T, atol=1e-5)
    (game, *_) = encoder.games(encoder.texts(TEXTS[:1]), rows)
    assert game.shape == (1, frames.mask[0].sum())


def _clips(encoder, videos):
    read = [read_clips(video, encoder.clips)[0] for video in videos]
    return tuple(np.concatenate([getattr(clips, name) for clips in read]) for name in ("frames", "mask"))


def test_videos_that_cannot_be_read_are_named(encoder, rendered, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = min(rendered.glob("video*.mp4"))
    found = hbi_jax.encode_videos(encoder, [broken, good])
    assert (found.names, list(found.errors)) == ((str(good),), [str(broken)])
    assert {name: level.features.shape[0] for name, level in found.levels.items()} == {"entity": 1, "action": 1}
    np.testing.assert_allclose(found.levels["entity"].weights.sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="videos: got none that can be read"):
        hbi_jax.encode_videos(encoder, broken)
    with pytest.raises(ValueError, match="text 1 of 1: got '', wanted words"):
        hbi_jax.encode_texts(encoder, "")


def test_stored_rows_are_what_the_model_computed(encoder):
    rng = np.random.default_rng(0)
    settings = encoder.clips
    frames = rng.integers(0, 256, (3, settings.num_frames, 16, 16, 3)).astype(np.uint8)
    mask = np.arange(settings.num_frames) < np.array([[5], [3], [1]])
    encoded = encoder.encode_clips(frames, mask)
    rows = encoder.rows(encoded)
    assert {name: array.shape[1:] for name, array in rows.items()} == encoder.row_shapes()
    restored = encoder.encoded(rows)
    for name, tokens in encoded.levels.items():
        np.testing.assert_array_equal(restored.levels[name].mask, tokens.mask)
        np.testing.assert_array_equal(restored.levels[name].features[tokens.mask], tokens.features[tokens.mask])
    texts = encoder.texts(TEXTS)
    np.testing.assert_allclose(encoder.similarity(texts, restored), encoder.similarity(texts, encoded), atol=1e-6)


def test_the_digest_is_of_architecture_and_parameters(encoder):
    assert tiny_encoder(devices=2).digest == encoder.digest
    assert tiny_encoder(dataclasses.replace(MODEL, merge_heads=1)).digest != encoder.digest


def test_levels_that_nothing_needs_are_not_stored():
    encoder = tiny_encoder(rates=(1.0, 0.0))
    assert encoder.scored == ("entity",)
    assert {name.split(".")[0] for name in encoder.row_shapes()} == {"entity", "pooled"}


def test_weights_that_cannot_retrieve_are_named(tmp_path):
    params = random_params(InteractionNet("mlp", 4), jnp.zeros((1, 2, 2), jnp.float32))
    given = pretrained.Pretrained("estimator", {"kind": "mlp", "num_features": 4}, params)
    pretrained.save(tmp_path / "estimator", given)
    with pytest.raises(SearchError, match="kind 'estimator': wanted 'hbi' or 'clip'"):
        open_encoder(tmp_path / "estimator")


def test_parameters_of_a_converted_folder_are_those(tmp_path):
    pretrained.save(tmp_path / "hbi", pretrained.Pretrained("hbi", plain(MODEL), parameters()))
    encoder = open_encoder(os.path.relpath(tmp_path / "hbi"), SearchConfig(num_words=12, num_frames=5))
    assert encoder.digest == tiny_encoder().digest
    assert encoder.level_rates == {"entity": 1.0, "action": 0.0}
    assert encoder.path == str(tmp_path / "hbi")
    assert (encoder.clips.num_frames, encoder.clips.length, encoder.clips.stride) == (5, 5.0, 2.5)
    assert jax.tree.leaves(encoder.texts(TEXTS))[0].shape[0] == 2
