"""Reconstruction: from inner products what the reconstructed tokens themselves give, and no larger than a block."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from hbi_jax.models.hbi import HBI
from hbi_jax.models.reconstruction import (
    SideMLPs,
    bounded,
    reconstruct,
    reconstructed_wti,
    reconstruction_side,
    video_query,
)
from hbi_jax.models.similarity import normalize
from hbi_jax.models.token_mlp import MLP
from hbi_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from hbi_jax.parallel.pairs import on_mesh
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.teacher import exact_teacher
from hbi_jax.types import WeightedTokens
from tests.optimized import compile_optimized
from tests.tiny_hbi import CONFIG, make_batch, random_params

V2 = HBI(dataclasses.replace(CONFIG, reconstruction=True, gate_features=8))


def make_mlp(rng, d, h):
    arrays = rng.normal(size=(d, h)) / np.sqrt(d), rng.normal(size=h), rng.normal(size=(h, 1)), rng.normal(size=1)
    return MLP(*(jnp.asarray(array, jnp.float32) for array in arrays))


def make_side(rng, rows, tokens, d):
    mask = np.arange(tokens) < rng.integers(1, tokens + 1, (rows, 1))
    mask[0] = True
    features = jnp.asarray(rng.normal(size=(rows, tokens, d)), jnp.float32)
    return WeightedTokens(features, jnp.asarray(mask), jnp.zeros((rows, tokens)))


def make_inputs(texts, videos, words, frames, d=12, h=7, seed=0):
    """Tokens of both sides, sentence vectors, MLPs of both sides."""
    rng = np.random.default_rng(seed)
    sides = make_side(rng, texts, words, d), make_side(rng, videos, frames, d)
    sentence = jnp.asarray(0.3 * rng.normal(size=(texts, d)), jnp.float32)
    mlps = (SideMLPs(make_mlp(rng, d, h), make_mlp(rng, d, h + 2)) for _ in range(2))
    return *sides, sentence, *mlps


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def apply_mlp(mlp, x):
    hidden = np.maximum(x @ np.float64(mlp.hidden_kernel) + np.float64(mlp.hidden_bias), 0)
    return hidden @ np.float64(mlp.kernel[:, 0]) + np.float64(mlp.bias[0])


def pair_by_hand(words, frames, sentence, text_mlps, video_mlps):
    """Eq. 2 to 5 and 12 for one pair of real tokens, as printed, in float64."""

    def side(x, query, mlps):
        cross = softmax(query @ x.T) @ x
        gate = apply_mlp(mlps.gate, x - cross)[:, None]
        mixed = gate * x + (1 - gate) * cross
        weights = np.full(len(x), 1 / len(x)) if mlps.weight is None else softmax(apply_mlp(mlps.weight, mixed))
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True), weights

    (t, w), (v, u) = side(words, frames.mean(0), text_mlps), side(frames, sentence, video_mlps)
    cosine = t @ v.T
    return 0.5 * (w @ cosine.max(1) + u @ cosine.max(0))


def by_hand(text, video, sentence, text_mlps, video_mlps):
    def real(tokens, row):
        return np.float64(tokens.features[row])[np.asarray(tokens.mask[row])]

    return np.array(
        [
            [
                pair_by_hand(real(text, a), real(video, b), np.float64(sentence[a]), text_mlps, video_mlps)
                for b in range(len(video.mask))
            ]
            for a in range(len(text.mask))
        ]
    )


@functools.partial(jax.jit, static_argnames=("video_block", "gate_bound"))
def in_blocks(text, video, sentence, text_mlps, video_mlps, video_block=16, gate_bound=0.0):
    sides = reconstruction_side(text, text_mlps, sentence), reconstruction_side(video, video_mlps)
    return reconstructed_wti(*sides, text_mlps, video_mlps, video_block, gate_bound)


@functools.partial(jax.jit, static_argnames="gate_bound")
def dense(text, video, sentence, text_mlps, video_mlps, gate_bound=0.0):
    """The same with every reconstructed token of every pair in memory."""

    def one(words, frames, sentence):
        row = jax.tree.map(lambda x: x[None], (words, frames, sentence))
        t = reconstruct(row[0], video_query(row[1]), text_mlps, gate_bound=gate_bound).tokens
        v = reconstruct(row[1], row[2], video_mlps, gate_bound=gate_bound).tokens
        x, y = normalize(t.features[0]), normalize(v.features[0])
        cells = t.mask[0][:, None] & v.mask[0][None]
        cosine = jnp.where(cells, x @ y.T, -2)
        weights = [jax.nn.softmax(z.logits[0], where=z.mask[0]) for z in (t, v)]
        best = [jnp.where(z.mask[0], cosine.max(axis), 0) for z, axis in ((t, 1), (v, 0))]
        return 0.5 * (weights[0] @ best[0] + weights[1] @ best[1])

    pairs = jax.vmap(jax.vmap(one, (None, 0, None)), (0, None, 0))
    return pairs(text, video, sentence)


@pytest.mark.parametrize(
    ("texts", "videos", "words", "frames", "block"), [(5, 7, 6, 4, 3), (3, 2, 1, 5, 16), (2, 4, 9, 1, 1)]
)
def test_it_is_the_formula_of_the_paper(texts, videos, words, frames, block):
    inputs = make_inputs(texts, videos, words, frames, seed=words)
    got = in_blocks(*inputs, block)
    np.testing.assert_allclose(got, by_hand(*inputs), atol=1e-5)


def test_without_token_weights_all_real_tokens_weigh_the_same():
    text, video, sentence, *mlps = make_inputs(3, 4, 5, 4)
    plain = (*(side._replace(weight=None) for side in mlps),)
    got = in_blocks(text, video, sentence, *plain)
    np.testing.assert_allclose(got, by_hand(text, video, sentence, *plain), atol=1e-5)


def test_bounded_gates_stay_near_one_and_start_like_the_others():
    text, video, sentence, *mlps = make_inputs(3, 4, 5, 4)
    # Gates of a size whose bounded form is not rounded to the bound.
    moderate = mlps[1]._replace(gate=mlps[1].gate._replace(kernel=0.2 * mlps[1].gate.kernel, bias=jnp.ones(1)))
    (gates, near) = (reconstruct(video, video_query(video), moderate, gate_bound=bound).gate for bound in (0.0, 0.5))
    assert np.abs(np.asarray(gates) - 1).max() > 0.5 > np.abs(np.asarray(near) - 1).max()
    np.testing.assert_allclose(near, 1 + 0.5 * np.tanh((np.asarray(gates) - 1) / 0.5), rtol=1e-5)
    value, slope = jax.value_and_grad(bounded)(1.0, 0.5)
    assert (value, slope) == (1.0, 1.0)
    got = in_blocks(text, video, sentence, *mlps, gate_bound=0.5)
    np.testing.assert_allclose(got, dense(text, video, sentence, *mlps, gate_bound=0.5), atol=1e-5)
    assert np.abs(got - dense(text, video, sentence, *mlps)).max() > 1e-3


def test_gradients_are_those_of_the_dense_formula():
    inputs = make_inputs(5, 7, 6, 4)
    tilt = jnp.asarray(np.random.default_rng(1).normal(size=(5, 7)), jnp.float32)

    def gradient(similarity):
        def loss(features, *rest):
            text, video = (side._replace(features=x) for side, x in zip(inputs[:2], features, strict=True))
            return jnp.sum(tilt * similarity(text, video, *rest))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(tuple(side.features for side in inputs[:2]), *inputs[2:])

    got, wanted = gradient(lambda *x: in_blocks(*x, 3)), gradient(dense)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1, np.abs(y).max()))
        # A softmax does not feel the last bias of its logits.
        assert y.size == 1 or np.abs(y).max() > 1e-3


def test_neither_direction_holds_what_all_pairs_have_in_tokens():
    """Of all pairs, one token side's hidden values or features would take more than the whole program does."""
    texts = videos = 96
    words, frames, d, h = 8, 6, 64, 64
    inputs = make_inputs(texts, videos, words, frames, d, h)
    all_pairs = 4 * texts * videos * frames * min(d, h)

    def loss(*x):
        return jnp.sum(in_blocks(*x, 4) ** 2)

    def size(function):
        return compile_optimized(jax.jit(function).lower(*inputs)).memory_analysis().temp_size_in_bytes

    assert size(lambda *x: in_blocks(*x, 4)) < all_pairs / 2
    assert size(jax.grad(loss, argnums=(2, 3, 4))) < all_pairs
    assert size(dense) > all_pairs


def test_a_block_has_a_video():
    with pytest.raises(ValueError, match="video_block=0; use a positive number"):
        in_blocks(*make_inputs(2, 2, 3, 3), 0)


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(jnp.asarray, make_batch(8))


@pytest.fixture(scope="module")
def params(batch):
    return jax.tree.map(jnp.asarray, random_params(V2, batch))


def step_loss(params, batch):
    return retrieval_loss(V2, AlignmentLossConfig(), exact_teacher(1.0), params, batch, jax.random.key(0))


@pytest.fixture(scope="module")
def aligned(params, batch):
    return jax.jit(V2.apply)(params, batch)


def test_gates_are_logged_by_level_and_side(params, aligned, batch):
    _, logged = jax.jit(step_loss)(params, batch)
    for level, alignment in aligned.items():
        for side, tokens in (("text", alignment.text), ("video", alignment.video)):
            mask = np.asarray(tokens.mask)
            gate = np.asarray(getattr(alignment, f"{side}_gate"))
            np.testing.assert_allclose(logged[f"gate/{level}/{side}"], gate[mask].mean(), rtol=1e-5)


def test_the_diagonal_is_made_of_the_matched_pairs(aligned):
    """Training's two views of a pair agree: the similarity from inner products, the game from its tokens."""
    for alignment in aligned.values():
        text, video = alignment.text, alignment.video
        cosine = np.where(text.mask[:, :, None] & video.mask[:, None], alignment.pair_similarity, -2)
        weights = [np.asarray(jax.nn.softmax(side.logits, where=side.mask)) for side in (text, video)]
        best = [np.where(side.mask, cosine.max(axis), 0) for side, axis in ((text, 2), (video, 1))]
        wanted = 0.5 * sum((w * b).sum(1) for w, b in zip(weights, best, strict=True))
        np.testing.assert_allclose(np.diagonal(alignment.similarity), wanted, atol=1e-5)


def test_a_gallery_has_the_similarities_and_games_of_training(params, batch, aligned):
    @jax.jit
    def score(params, batch):
        text = V2.apply(params, batch.token_ids, batch.text_mask, method="encode_text")
        video = V2.apply(params, batch.frames, batch.frame_mask, method="encode_video")
        rates = {"entity": 0.5, "action": 2.0}
        match = V2.apply(params, text, video, "action", method="match")
        return V2.apply(params, text, video, rates, 3, method="gallery_similarity"), match

    entity, action = (aligned[level].similarity for level in ("entity", "action"))
    similarity, match = score(params, batch)
    np.testing.assert_allclose(similarity, 0.5 * entity + 2 * action, atol=1e-5)
    # The games too, of reconstructed tokens.
    for name, value in match._asdict().items():
        wanted = getattr(aligned["action"], name)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), value, wanted)


def test_padding_changes_nothing(params, batch, aligned):
    pad = [(0, 0), (0, 2)]
    longer = batch._replace(
        token_ids=jnp.pad(batch.token_ids, pad),
        text_mask=jnp.pad(batch.text_mask, pad),
        frames=jnp.pad(batch.frames, [*pad, (0, 0), (0, 0), (0, 0)]),
        frame_mask=jnp.pad(batch.frame_mask, pad),
    )
    for level, alignment in jax.jit(V2.apply)(params, longer).items():
        np.testing.assert_allclose(alignment.similarity, aligned[level].similarity, atol=1e-5)


@pytest.mark.slow
def test_eight_devices_give_what_one_gives(params, batch):
    mesh, step = make_mesh(), jax.jit(jax.value_and_grad(step_loss, has_aux=True))
    placed = jax.device_put(params, replicated(mesh)), jax.device_put(batch, batch_sharding(mesh))
    with on_mesh(mesh):
        (loss, _), gradient = step(*placed)
    (wanted, _), wanted_gradient = step(params, batch)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4 * max(1, np.abs(y).max()))


def products(jaxpr):
    """The precision of every product of float32 numbers of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and equation.invars[0].aval.dtype == jnp.float32:
            yield equation.params["precision"]
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize("model", [HBI(CONFIG), V2], ids=["HBI", "HBI V2"])
def test_similarities_and_games_do_not_round_their_factors(model, params, batch):
    """Nor do their gradients. On CPU nothing is rounded, so the program is read."""

    def encode(params):
        text = model.apply(params, batch.token_ids, batch.text_mask, method="encode_text")
        return text, model.apply(params, batch.frames, batch.frame_mask, method="encode_video")

    text, video = jax.eval_shape(encode, params)

    def energy(params, words, frames):
        sides = text._replace(levels=words), video._replace(levels=frames)
        aligned = model.apply(params, *sides, method="align")
        return sum(jnp.sum(x.similarity) + jnp.sum(x.pair_prediction) for x in aligned.values())

    rates = dict.fromkeys((level.name for level in CONFIG.levels), 1.0)
    text, video = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (text, video))
    gradient = jax.make_jaxpr(jax.grad(energy, allow_int=True))(params, text.levels, video.levels)
    gallery = jax.make_jaxpr(lambda p: model.apply(p, text, video, rates, method="gallery_similarity"))(params)
    found = [*products(gradient.jaxpr), *products(gallery.jaxpr)]
    assert len(found) > 20
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.slow
def test_a_fresh_model_is_the_one_without_reconstruction(batch):
    fresh = jax.jit(V2.init)(jax.random.key(0), batch)
    names = [name for name in fresh["params"] if "_gate_" in name]
    without = {"params": {name: leaf for name, leaf in fresh["params"].items() if name not in names}}
    got, wanted = jax.jit(V2.apply)(fresh, batch), jax.jit(HBI(CONFIG).apply)(without, batch)
    assert len(names) == 2 * len(CONFIG.levels)
    for level in wanted:
        np.testing.assert_allclose(got[level].similarity, wanted[level].similarity, atol=1e-5)
