"""Weighted token-wise interaction (WTI, Eq. 12): the similarity of two sets of tokens, computed in blocks of videos."""

import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hbi_jax.choices import Padding
from hbi_jax.parallel.pairs import all_pairs, for_platform, num_shards
from hbi_jax.types import WeightedTokens

# Bytes of the products of all tokens with all tokens up to which a device holds them at once: no loop over blocks, and
# nothing is computed twice. What a CPU's cache does not hold is faster in blocks.
_WHOLE_BYTES = {"cpu": 2**22, "other": 2**25}


def in_float32() -> contextlib.AbstractContextManager:
    """Returns a context in which products of float32 are exact to float32; accelerators round their factors else."""
    return jax.default_matmul_precision("highest")


def normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Returns the vectors scaled to length 1, in float32; a zero vector stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def token_weights(logits: Float[Array, "*b n"], mask: Bool[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Returns the softmax over the real tokens; zero at padding and in rows without real tokens."""
    logits = jnp.where(mask, logits.astype(jnp.float32), -1e30)
    return jnp.where(mask, jax.nn.softmax(logits, axis=-1), 0)


def pair_similarity(text: WeightedTokens, video: WeightedTokens) -> Float[Array, "b t v"]:
    """Returns the token-by-token cosines of the matched rows of two batches, in [-1, 1]; zero at padding."""
    with in_float32():
        cosine = jnp.einsum("btd,bvd->btv", normalize(text.features), normalize(video.features))
    return jnp.where(text.mask[:, :, None] & video.mask[:, None, :], cosine, 0)


def masked_max(
    x: Float[Array, "..."], mask: Bool[Array, "..."], axis: int, padding: Padding = "masked"
) -> Float[Array, "..."]:
    """Returns the maximum over the real entries, or 0 if there are none; with `published`, padding counts as 0."""
    best = jnp.max(jnp.where(mask, x, 0.0 if padding == "published" else -2.0), axis=axis)
    return jnp.where(best < -1.5, 0, best)


def matched_wti(
    cosine: Float[Array, "b t v"], text: WeightedTokens, video: WeightedTokens, padding: Padding = "masked"
) -> Float[Array, " b"]:
    """Returns the similarity of the matched rows of two batches, the diagonal of `wti`, from their cosines."""
    words, frames = (token_weights(side.logits, side.mask) for side in (text, video))
    best_frame = masked_max(cosine, video.mask[:, None, :], -1, padding)
    best_word = masked_max(cosine, text.mask[:, :, None], -2, padding)
    return 0.5 * (jnp.sum(best_frame * words, axis=-1) + jnp.sum(best_word * frames, axis=-1))


class WTISide(NamedTuple):
    """What WTI needs of one side, whatever the other: tokens of length 1, and their weights."""

    features: Float[Array, "*b n d"]
    weights: Float[Array, "*b n"]
    mask: Bool[Array, "*b n"]


def wti_side(tokens: WeightedTokens) -> WTISide:
    """Returns what WTI needs of each text or video, whatever the other side."""
    return WTISide(normalize(tokens.features), token_weights(tokens.logits, tokens.mask), tokens.mask)


def wti(
    text: WeightedTokens, video: WeightedTokens, video_block: int = 16, padding: Padding = "masked"
) -> Float[Array, "a b"]:
    """Returns the similarity of every text with every video (HBI V2, Eq. 12); see `wti_of_sides`."""
    return wti_of_sides(wti_side(text), wti_side(video), video_block, padding)


def wti_of_sides(
    texts: WTISide, videos: WTISide, video_block: int = 16, padding: Padding = "masked"
) -> Float[Array, "a b"]:
    """Returns the similarity of every text with every video (HBI V2, Eq. 12).

    Each token scores its best match among the real tokens of the other side. The scores of a side are averaged with the
    softmax of its weight logits, and the two sides are averaged. Where the products of all tokens with all tokens,
    [a, b, t, v], are large, they are in memory for blocks of videos, also in the backward pass, which recomputes them.

    On a mesh, each device computes its texts with all videos (`all_pairs`).

    Args:
      texts, videos: Tokens of `a` texts and `b` videos. A row without real tokens has similarity 0.
      video_block: Number of videos per block; of a device that has a share of the texts, as many times more.
      padding: With `published`, padded tokens enter the maxima with similarity 0.

    Returns:
      Cosine-based similarity in [-1, 1], float32.

    Raises:
      ValueError: If `video_block` is less than 1.
    """
    if video_block < 1:
        raise ValueError(f"video_block={video_block}; use a positive number of videos")
    block = video_block * num_shards(len(texts.mask))

    def similarity(texts: WTISide, videos: WTISide) -> Float[Array, "m b"]:
        def similarity_of_video(video: WTISide) -> Float[Array, " m"]:
            cosine = jnp.einsum("atd,vd->atv", texts.features, video.features)
            best_frame = masked_max(cosine, video.mask, -1, padding)
            best_word = masked_max(cosine, texts.mask[:, :, None], -2, padding)
            return 0.5 * (jnp.einsum("at,at->a", best_frame, texts.weights) + best_word @ video.weights)

        if 4 * texts.mask.size * videos.mask.size <= for_platform(_WHOLE_BYTES):
            return jax.vmap(similarity_of_video)(videos).T
        return jax.lax.map(jax.checkpoint(similarity_of_video), videos, batch_size=block).T

    with in_float32():
        return all_pairs(similarity, texts, videos)
