"""Representation reconstruction (HBI V2, Eq. 2 to 5): each side's tokens mixed with their mean under cross-attention.

The tokens of a video are reconstructed for every text, and those of a text for every video. The similarity of all texts
with all videos is computed from inner products of tokens, without forming the reconstructed tokens. This works because
a reconstructed token is a linear combination of tokens of its own side: its cosines and its values in the first layers
of the MLPs follow from those of the original tokens.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hbi_jax.models.similarity import in_float32, masked_max, token_weights
from hbi_jax.models.token_mlp import MLP, mlp_hidden, mlp_output
from hbi_jax.parallel.pairs import all_pairs, for_platform, num_shards
from hbi_jax.types import WeightedTokens

# Features of an MLP whose ReLUs are summed at once. A loop over single features is fast on CPU only.
_FEATURES = {"cpu": 1, "other": 128}


class SideMLPs(NamedTuple):
    """The MLPs of the reconstruction of one side at one level.

    Attributes:
      gate: Maps token minus cross-modal token to the share of the single-modal token: gamma of frames, delta of words.
      weight: Maps a reconstructed token to the logit of its weight; None if all tokens have equal weight.
    """

    gate: MLP
    weight: MLP | None


class Reconstructed(NamedTuple):
    """The reconstructed tokens of one side of matched pairs, and their gates.

    Attributes:
      tokens: The reconstructed tokens; padding is zero.
      gate: gamma of frames, delta of words (Eq. 3 and 5); arbitrary at padding.
    """

    tokens: WeightedTokens
    gate: Float[Array, "b n"]


class ReconstructionSide(NamedTuple):
    """What the similarity needs of one side, whatever the other, computed once for all pairs that a row is in.

    Attributes:
      features, mask: The single-modal tokens; padding is zero.
      gram: Inner products of the tokens of a row.
      gate_hidden, weight_hidden: Values of the tokens in the first layers of the MLPs; None without such an MLP.
      sentence: The sentence vector of a text, the query for the frames; None for videos.
    """

    features: Float[Array, "*b n d"]
    mask: Bool[Array, "*b n"]
    gram: Float[Array, "*b n n"]
    gate_hidden: Float[Array, "*b h n"]
    weight_hidden: Float[Array, "*b w n"] | None
    sentence: Float[Array, "*b d"] | None = None


class _Mixture(NamedTuple):
    """The mixture of one side in a pair: each token becomes gate * token + (1 - gate) * mean under `attention`."""

    gate: Float[Array, " n"]
    attention: Float[Array, " n"]


def video_query(video: WeightedTokens) -> Float[Array, "b d"]:
    """Returns the mean of a level's real video tokens, the query for the words (Eq. 4); 0 if there are none."""
    real = video.mask[..., None].astype(jnp.float32)
    return (video.features * real).sum(1) / jnp.maximum(real.sum(1), 1)


def bounded(gate: Float[Array, "*b"], bound: float) -> Float[Array, "*b"]:
    """Returns `1 + bound * tanh((gate - 1) / bound)`, which has value and slope 1 at gate 1; bound 0 changes nothing.

    The paper's gates have no bound (Eq. 3 and 5).
    """
    return 1 + bound * jnp.tanh((gate - 1) / bound) if bound else gate


def reconstruct(
    tokens: WeightedTokens,
    query: Float[Array, "b d"],
    mlps: SideMLPs,
    dtype: jax.typing.DTypeLike = jnp.float32,
    gate_bound: float = 0.0,
) -> Reconstructed:
    """Returns the reconstructed tokens of one side of matched pairs (HBI V2, Eq. 2 and 3, or 4 and 5).

    Args:
      tokens: Single-modal tokens of one side.
      query: The query from the other side of each pair: sentence vector, or mean of the video's tokens.
      mlps: The MLPs of this side and level.
      dtype: Dtype of the MLPs' first layers.
      gate_bound: Largest distance of a gate from 1, see `bounded`.
    """
    features, mask = jnp.where(tokens.mask[..., None], tokens.features, 0).astype(jnp.float32), tokens.mask
    with in_float32():
        attention = token_weights(jnp.einsum("bd,bnd->bn", query.astype(jnp.float32), features), mask)
        cross = jnp.einsum("bn,bnd->bd", attention, features)[:, None]
        gate = bounded(mlp_output(mlps.gate, mlp_hidden(mlps.gate, features - cross, dtype)), gate_bound)
        mixed = jnp.where(mask[..., None], cross + gate[..., None] * (features - cross), 0)
        logits = jnp.zeros_like(gate)
        if mlps.weight is not None:
            logits = mlp_output(mlps.weight, mlp_hidden(mlps.weight, mixed, dtype))
    return Reconstructed(WeightedTokens(mixed, mask, logits), gate)


def reconstruction_side(
    tokens: WeightedTokens,
    mlps: SideMLPs,
    sentence: Float[Array, "b d"] | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> ReconstructionSide:
    """Returns what `reconstructed_wti` needs of each text or video, whatever the other side.

    Args:
      tokens: Single-modal tokens of one side.
      mlps: The MLPs of this side and level.
      sentence: The sentence vector of each text; None for videos.
      dtype: Dtype of the MLPs' first layers.
    """
    features = jnp.where(tokens.mask[..., None], tokens.features, 0).astype(jnp.float32)

    def hidden(mlp: MLP) -> Float[Array, "b h n"]:
        return jnp.swapaxes(mlp_hidden(mlp, features, dtype).astype(jnp.float32), 1, 2)

    # Lengths are differences of products, so the products need full precision.
    with in_float32():
        return ReconstructionSide(
            features,
            tokens.mask,
            jnp.einsum("bnd,bkd->bnk", features, features),
            hidden(mlps.gate),
            None if mlps.weight is None else hidden(mlps.weight),
            None if sentence is None else sentence.astype(jnp.float32),
        )


def reconstructed_wti(
    texts: ReconstructionSide,
    videos: ReconstructionSide,
    text_mlps: SideMLPs,
    video_mlps: SideMLPs,
    video_block: int = 16,
    gate_bound: float = 0.0,
) -> Float[Array, "a b"]:
    """Returns the similarity of every text with every video after reconstruction (HBI V2, Eq. 2 to 5 and 12).

    The result equals `wti` of the tokens reconstructed for each pair, but those tokens are never formed. Memory holds
    the inner products, gates and hidden values of the MLPs for the pairs of a block of videos, in both the forward and
    the backward pass.

    On a mesh, each device computes its texts with all videos (`all_pairs`).

    Args:
      texts: What `reconstruction_side` returns for `a` texts and their sentence vectors.
      videos: What `reconstruction_side` returns for `b` videos.
      text_mlps, video_mlps: The MLPs of this level, those that the sides were computed with.
      video_block: Number of videos per block; of a device that has a share of the texts, as many times more.
      gate_bound: Largest distance of a gate from 1, see `bounded`.

    Raises:
      ValueError: If `video_block` is less than 1.
    """
    if video_block < 1:
        raise ValueError(f"video_block={video_block}; use a positive number of videos")
    block = video_block * num_shards(len(texts.mask))

    def similarity(
        texts: ReconstructionSide, videos: ReconstructionSide, text_mlps: SideMLPs, video_mlps: SideMLPs
    ) -> Float[Array, "m b"]:
        def of_pair(words: ReconstructionSide, frames: ReconstructionSide) -> Float[Array, ""]:
            return _pair(words, frames, text_mlps, video_mlps, gate_bound)

        @jax.checkpoint
        def similarity_of_video(frames: ReconstructionSide) -> Float[Array, " m"]:
            return jax.vmap(of_pair, in_axes=(0, None))(texts, frames)

        return jax.lax.map(similarity_of_video, videos, batch_size=block).T

    with in_float32():
        return all_pairs(similarity, texts, videos, text_mlps, video_mlps)


def _pair(
    words: ReconstructionSide,
    frames: ReconstructionSide,
    text_mlps: SideMLPs,
    video_mlps: SideMLPs,
    gate_bound: float,
) -> Float[Array, ""]:
    """Returns the similarity of one text with one video."""
    products = words.features @ frames.features.T
    # The query for the words is the mean frame; its products with the words are the mean of the frames' products.
    asked = jnp.sum(products, axis=1) / jnp.maximum(jnp.sum(frames.mask), 1)
    text = _mixture(words, asked, text_mlps, gate_bound)
    video = _mixture(frames, frames.features @ words.sentence, video_mlps, gate_bound)

    # The products x_j . y_i of the mixtures x = d T_j + (1 - d) t and y = g V_i + (1 - g) v; words are rows, frames
    # are columns.
    delta, gamma = text.gate[:, None], video.gate[None]
    with_text = jnp.sum(text.attention[:, None] * products, axis=0, keepdims=True)
    with_video = jnp.sum(video.attention[None] * products, axis=1, keepdims=True)
    means = jnp.sum(video.attention[None] * with_text)
    cosine = gamma * (delta * products + (1 - delta) * with_text)
    cosine += (1 - gamma) * (delta * with_video + (1 - delta) * means)
    cosine *= _inverse_length(text, words)[:, None] * _inverse_length(video, frames)[None]

    best_frame = masked_max(cosine, frames.mask[None], 1)
    best_word = masked_max(cosine, words.mask[:, None], 0)
    word_weights, frame_weights = _weights(text, words, text_mlps), _weights(video, frames, video_mlps)
    return 0.5 * (jnp.sum(word_weights * best_frame) + jnp.sum(frame_weights * best_word))


def _mixture(side: ReconstructionSide, asked: Float[Array, " n"], mlps: SideMLPs, gate_bound: float) -> _Mixture:
    attention = token_weights(asked, side.mask)
    # The input of the gate's MLP is a difference of two tokens, in which the bias of the affine first layer cancels.
    mean = side.gate_hidden @ attention - mlps.gate.hidden_bias
    gate = _output(mlps.gate, lambda hidden, mean: hidden - mean, side.gate_hidden, mean)
    return _Mixture(bounded(gate, gate_bound), attention)


def _inverse_length(mixture: _Mixture, side: ReconstructionSide) -> Float[Array, " n"]:
    """Returns the inverse lengths of the reconstructed tokens."""
    gate, products = mixture.gate, side.gram @ mixture.attention
    mean_square = jnp.sum(mixture.attention * products)
    # |c + g (x - c)|^2 where c is the mean; rounding can make the square of x - c negative.
    square = jnp.maximum(jnp.diagonal(side.gram) - 2 * products + mean_square, 0)
    square = mean_square + 2 * gate * (products - mean_square) + gate**2 * square
    return jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def _weights(mixture: _Mixture, side: ReconstructionSide, mlps: SideMLPs) -> Float[Array, " n"]:
    """Returns the softmax, over the real tokens, of the MLP's logits for the reconstructed tokens."""
    logits = jnp.zeros_like(mixture.gate)
    if mlps.weight is not None:
        # The MLP's input is a combination of tokens with coefficients that add up to 1, so its affine first layer
        # returns the same combination of their hidden values.
        mean = side.weight_hidden @ mixture.attention
        logits = _output(
            mlps.weight, lambda hidden, mean: mean + mixture.gate * (hidden - mean), side.weight_hidden, mean
        )
    return token_weights(logits, side.mask)


def _output(
    mlp: MLP,
    combine: Callable[[Float[Array, " n"], Float[Array, ""]], Float[Array, " n"]],
    hidden: Float[Array, "h n"],
    mean: Float[Array, " h"],
) -> Float[Array, " n"]:
    """Returns the output of an MLP from the tokens' hidden values, each combined with their mean by `combine`."""
    together = math.gcd(len(hidden), for_platform(_FEATURES))
    features = (hidden, mean, mlp.kernel[:, 0])

    def term(hidden: Float[Array, " n"], mean: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, " n"]:
        return weight * nn.relu(combine(hidden, mean))

    def terms(*features: Array) -> Float[Array, " n"]:
        return jnp.sum(jax.vmap(term)(*features), axis=0)

    # In parts, the forward pass never holds the ReLU's outputs for all features. The backward pass does hold them, for
    # one block of videos.
    if together > 1:
        features = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), features)
    # Not the sum of one term: the compiler of CPUs takes a tenth longer for it.
    add = term if together == 1 else terms
    start = jnp.full_like(hidden[0], mlp.bias[0])
    return jax.lax.scan(lambda total, features: (total + add(*features), None), start, features)[0]
