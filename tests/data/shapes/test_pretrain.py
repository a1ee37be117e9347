"""The command that trains `shapes-clip`: batches, losses and the file, on tiny towers."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.data.shapes import pretrain
from hbi_jax.data.shapes.entities import Entity
from hbi_jax.data.shapes.scenes import Pose
from hbi_jax.data.shapes.stills import Still
from hbi_jax.data.text import END, Tokenizer
from hbi_jax.models.config import CLIPConfig
from hbi_jax.models.similarity import normalize, wti
from hbi_jax.pretrained import folder, load
from hbi_jax.types import WeightedTokens

TINY = CLIPConfig(
    image_size=16,
    patch_size=8,
    vision_width=8,
    vision_layers=1,
    text_width=8,
    text_layers=1,
    embed_features=8,
    head_features=4,
)


@pytest.fixture(scope="module")
def pool():
    return pretrain.render_pool(48, seed=0, num_workers=1)


def test_the_pool_depends_on_the_seed_alone(pool, monkeypatch):
    monkeypatch.setattr(pretrain, "_PORTION", 4)
    again = pretrain.render_pool(48, seed=0, num_workers=1)
    assert (len(pool.stills), pool.pictures.shape) == (48, (48, 48, 48, 3))
    assert again.stills[:8] == pool.stills[:8]
    np.testing.assert_array_equal(again.pictures[:8], pool.pictures[:8])
    assert pretrain.render_pool(8, seed=1, num_workers=1).stills != pool.stills[:8]


def test_a_batch_has_whole_groups_with_captions_of_their_pictures(pool):
    captioner = pretrain.Captioner(pool, seed=0)
    batches = captioner.batches(16, random.Random(0))
    seen, tokenizer = [], Tokenizer(24)
    groups = pool.pictures.reshape(6, 8, 48, 48, 3)
    for _, batch in zip(range(3), batches, strict=False):
        for pictures in batch.pictures.reshape(2, 8, 48, 48, 3):
            seen += np.flatnonzero((groups == pictures).all(axis=(1, 2, 3, 4))).tolist()
        stills = [pool.stills[8 * group + member] for group in seen[-2:] for member in range(8)]
        for row, (token_ids, still) in enumerate(zip(batch.token_ids, stills, strict=True)):
            text = tokenizer.decode(captioner.rows[token_ids])
            assert any(entity.color in text for entity in still.entities), text
            # The end of the text is the largest id of the table, where the text tower looks for the sentence.
            assert token_ids.argmax() == batch.mask[row].sum() - 1
    assert captioner.rows[-1] == END
    # Three batches of 16 are one pass over 48 stills, in groups of 8.
    assert sorted(seen) == list(range(6))


def test_a_word_that_is_in_no_row_is_named(pool):
    captioner = pretrain.Captioner(pool, seed=0)
    captioner.rows = captioner.rows[[0, -2, -1]]
    with pytest.raises(ValueError, match=r"captions have the tokens \[.*\], wanted those of"):
        next(captioner.batches(16, random.Random(0)))


def test_the_similarity_of_words_is_that_of_the_model():
    rng = np.random.default_rng(0)
    words, images = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5, 4), (2, 4)))
    mask = jnp.asarray(np.arange(5) < np.array([[5], [3], [2]]))
    sentences, tokens = pretrain.similarities(words, mask, words[:, 0], images)
    np.testing.assert_allclose(sentences, normalize(words[:, 0]) @ normalize(images).T, atol=1e-6)
    text = WeightedTokens(words, mask, jnp.zeros((3, 5)))
    video = WeightedTokens(images[:, None], jnp.ones((2, 1), bool), jnp.zeros((2, 1)))
    np.testing.assert_allclose(tokens, wti(text, video), atol=1e-6)


def test_the_command_writes_weights_that_load(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "TOWERS", TINY)
    out = tmp_path / "clip.safetensors"
    flags = ["--num_steps=2", "--batch_size=8", "--num_stills=16", "--num_workers=1", "--seed=3"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretrain.main(["--out=~/clip.safetensors", *flags]) == 0
    assert "step 2: sentences " in capsys.readouterr().out
    monkeypatch.setattr(folder, "shipped_file", lambda name: out)
    weights = load("shapes-clip", progress=False)
    assert CLIPConfig(**weights.config) == TINY
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights.params))
    with pytest.raises(SystemExit):
        pretrain.main(["--batch_size=12"])
    assert "wanted a multiple of 8" in capsys.readouterr().err
    for seed in (-1, 2**32, 2**63):
        with pytest.raises(SystemExit):
            pretrain.main([f"--seed={seed}", *flags[:-1]])
        assert f"--seed={seed}: wanted 0 to 4294967295" in capsys.readouterr().err


def test_facts_are_what_the_pictures_show():
    entities = Entity("red", "circle", "small"), Entity("red", "ring", "large")
    still = Still(0, entities, (Pose(0.25, 0.75, 0.2, 0.0, True), Pose(0.6, 0.5, 0.35, np.pi / 2, True)))
    shown, single, poses = (x[0] for x in pretrain.facts_of([still]))
    kinds = pretrain._KINDS
    assert {kind for kind, is_shown in zip(kinds, shown, strict=True) if is_shown} == {"red", "circle", "ring"}
    # Two shapes are red, so red has no place.
    assert {kind for kind, is_single in zip(kinds, single, strict=True) if is_single} == {"circle", "ring"}
    np.testing.assert_allclose(poses[kinds.index("circle")], [-1, 1, -0.5, 0, 1], atol=1e-6)
    np.testing.assert_allclose(poses[kinds.index("ring")], [0.4, 0, 1, 1, 0], atol=1e-6)
    # Reading them without an error costs only what is left of the cross-entropy.
    read = np.concatenate([np.where(shown, 9.0, -9.0)[:, None], poses], -1).reshape(1, -1)
    facts = jax.tree.map(jnp.asarray, pretrain.facts_of([still]))
    right = pretrain.facts_loss(jnp.asarray(read, jnp.float32), facts)
    assert right == pytest.approx(np.log1p(np.exp(-9)), rel=1e-2)
    moved = read.reshape(len(kinds), 6) + np.array([0, 2.0, 0, 0, 0, 0])
    wrong = pretrain.facts_loss(jnp.asarray(moved.reshape(1, -1), jnp.float32), facts)
    assert wrong - right == pytest.approx(4 / 5, rel=1e-5)
