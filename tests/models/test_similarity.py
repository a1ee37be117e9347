"""Token-wise similarity by hand, and the blocked form against the dense equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from hbi_jax.models import similarity as similarity_module
from hbi_jax.models.similarity import normalize, pair_similarity, token_weights, wti
from hbi_jax.types import WeightedTokens

WIDTH = 6
# Compiled: one dispatch a call.
similarity = jax.jit(wti, static_argnums=(2, 3))
pairs = jax.jit(pair_similarity)


def random_tokens(rng, lengths, tokens):
    mask = np.arange(tokens)[None] < np.array(lengths)[:, None]
    features = rng.normal(size=(len(lengths), tokens, WIDTH)).astype(np.float32)
    logits = rng.normal(size=(len(lengths), tokens)).astype(np.float32)
    return WeightedTokens(*map(jnp.asarray, (features, mask, logits)))


@pytest.fixture(scope="module")
def text():
    """Four texts, the last without a real token."""
    return random_tokens(np.random.default_rng(0), [4, 2, 1, 0], 4)


@pytest.fixture(scope="module")
def video():
    """Five videos, the fourth without a real token."""
    return random_tokens(np.random.default_rng(1), [3, 2, 1, 0, 3], 3)


def dense(text, video):
    """Eq. 12 with every token of every pair at once."""

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def weights(tokens):
        exp = jnp.where(tokens.mask, jnp.exp(tokens.logits), 0)
        return exp / jnp.maximum(exp.sum(-1, keepdims=True), 1e-9)

    cosine = jnp.einsum("atd,bvd->abtv", unit(text.features), unit(video.features))
    real = text.mask[:, None, :, None] & video.mask[None, :, None, :]
    best_frame = jnp.where(real.any(3), jnp.where(real, cosine, -9).max(3), 0)
    best_word = jnp.where(real.any(2), jnp.where(real, cosine, -9).max(2), 0)
    words = jnp.einsum("abt,at->ab", best_frame, weights(text))
    frames = jnp.einsum("abv,bv->ab", best_word, weights(video))
    return 0.5 * (words + frames)


def test_normalize_by_hand():
    got = normalize(jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]], jnp.bfloat16))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[:2], [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda x: normalize(x).sum())(jnp.zeros((1, 2)))))


def test_token_weights_by_hand():
    got = token_weights(jnp.log(jnp.array([[1.0, 3.0, 8.0], [1.0, 1.0, 1.0]])), jnp.array([[1, 1, 0], [0, 0, 0]], bool))
    np.testing.assert_allclose(got, [[0.25, 0.75, 0], [0, 0, 0]], atol=1e-6)


def test_pair_similarity_by_hand():
    words = jnp.array([[[2.0, 0.0], [0.0, 3.0]]])
    frames = jnp.array([[[1.0, 1.0], [-5.0, 0.0], [7.0, 7.0]]])
    text = WeightedTokens(words, jnp.ones((1, 2), bool), jnp.zeros((1, 2)))
    video = WeightedTokens(frames, jnp.array([[True, True, False]]), jnp.zeros((1, 3)))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(pair_similarity(text, video), [[[half, -1, 0], [half, 0, 0]]], atol=1e-6)


def test_wti_by_hand():
    """Word weights 1/4 and 3/4, both frames alike; all matches are 1, 0 or -1."""
    text = WeightedTokens(
        jnp.array([[[1.0, 0.0], [0.0, -1.0]]]), jnp.ones((1, 2), bool), jnp.log(jnp.array([[1.0, 3.0]]))
    )
    video = WeightedTokens(jnp.array([[[2.0, 0.0], [0.0, 2.0]]]), jnp.ones((1, 2), bool), jnp.zeros((1, 2)))
    # Words match best with 1 and 0, frames with 1 and 0.
    wanted = 0.5 * (0.25 * 1 + 0.75 * 0) + 0.5 * (0.5 * 1 + 0.5 * 0)
    np.testing.assert_allclose(similarity(text, video, 16), [[wanted]], atol=1e-6)
    # Without the first word the best matches are 0 of the word and 0, -1 of the frames.
    alone = text._replace(mask=jnp.array([[False, True]]))
    np.testing.assert_allclose(similarity(alone, video, 16), [[0.5 * 0 + 0.5 * (0.5 * 0 + 0.5 * -1)]], atol=1e-6)


@pytest.mark.parametrize("video_block", [0, 1, 3, 5, 16])
def test_blocks_are_the_dense_equation(text, video, video_block, monkeypatch):
    """Values and gradients; block sizes that do not divide the five videos, and everything at once (0), included."""
    if video_block:
        monkeypatch.setattr(similarity_module, "_WHOLE_BYTES", {"other": 0})
    weight = jax.random.normal(jax.random.key(0), (4, 5))

    def value_and_grad(function):
        def total(features):
            (words, word_logits), (frames, frame_logits) = features
            scores = function(
                WeightedTokens(words, text.mask, word_logits), WeightedTokens(frames, video.mask, frame_logits)
            )
            return jnp.sum(scores * weight), scores

        inputs = ((text.features, text.logits), (video.features, video.logits))
        (_, scores), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(inputs)
        return scores, gradients

    got, gradients = value_and_grad(lambda t, v: wti(t, v, video_block or 16))
    wanted, wanted_gradients = value_and_grad(dense)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), gradients, wanted_gradients)
    assert np.abs(gradients[0][0]).max() > 1e-2


def test_rows_without_tokens_score_zero(text, video):
    got = np.asarray(similarity(text, video, 2))
    np.testing.assert_array_equal(got[3], 0)
    np.testing.assert_array_equal(got[:, 3], 0)
    assert np.all(got[:3, [0, 1, 2, 4]] != 0)


def test_padding_changes_nothing(text, video):
    def garbage(tokens):
        fill = jnp.where(tokens.mask, tokens.logits, 50.0)
        return tokens._replace(features=jnp.where(tokens.mask[..., None], tokens.features, 1e3), logits=fill)

    np.testing.assert_array_equal(similarity(garbage(text), garbage(video), 2), similarity(text, video, 2))
    matched = WeightedTokens(*(x[:4] for x in video))
    np.testing.assert_array_equal(pairs(garbage(text), garbage(matched)), pairs(text, matched))


def test_gradients_of_zero_features_are_finite(text, video):
    def total(words, frames):
        return wti(text._replace(features=words), video._replace(features=frames), 2).sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.zeros_like(text.features), jnp.zeros_like(video.features))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def largest_array(jaxpr) -> int:
    """Numbers in the largest value of a computation, whatever it is nested in."""
    sizes = [1]
    for equation in jaxpr.eqns:
        sizes += [variable.aval.size for variable in equation.outvars]
        for inner in jaxprs_in_params(equation.params):
            sizes.append(largest_array(inner))
    return max(sizes)


def test_a_large_pairwise_tensor_is_never_whole(monkeypatch):
    """Forward and backward: at most the products of one block of videos."""
    monkeypatch.setattr(similarity_module, "_WHOLE_BYTES", {"other": 0})
    a, b, t, v, block = 8, 32, 10, 12, 4
    rng = np.random.default_rng(0)
    text, video = random_tokens(rng, [t] * a, t), random_tokens(rng, [v] * b, v)

    def total(words, frames, block):
        return wti(text._replace(features=words), video._replace(features=frames), block).sum()

    gradient = jax.grad(total, argnums=(0, 1))
    for function in (total, gradient):

        def size(block, function=function):
            jaxpr = jax.make_jaxpr(lambda words, frames: function(words, frames, block))
            return largest_array(jaxpr(text.features, video.features).jaxpr)

        assert size(block) == a * block * t * v
        assert size(b) == a * b * t * v


def test_compiled_is_eager(text, video):
    np.testing.assert_allclose(similarity(text, video, 16), wti(text, video), atol=1e-6)


def test_a_block_of_nothing_is_named(text, video):
    with pytest.raises(ValueError, match="video_block=0; use a positive number"):
        wti(text, video, 0)


def test_published_padding_is_a_match_of_zero(text, video):
    """A padded token's similarity is 0, and no maximum beside one is less; its weight is 0 all the same."""
    got = similarity(text, video, 16, "published")

    def zeroed(tokens):
        return tokens._replace(
            features=jnp.where(tokens.mask[..., None], tokens.features, 0),
            mask=jnp.ones_like(tokens.mask),
            logits=jnp.where(tokens.mask, tokens.logits, -1e30),
        )

    # Rows with a real token: without one, a softmax over zeros alone would weigh them.
    np.testing.assert_allclose(got[:3, :3], similarity(zeroed(text), zeroed(video), 16)[:3, :3], atol=1e-6)
    np.testing.assert_array_equal(got[3], 0)
    np.testing.assert_array_equal(got[:, 3], 0)
    assert np.abs(got - similarity(text, video, 16)).max() > 1e-2
