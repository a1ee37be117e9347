"""Closed-form interactions and values of the players in the similarity game (docs/banzhaf.md).

The value of a coalition is a sum of products (weight of a word, which depends on the words present) x (its best match,
which depends on the frames present), plus the same with the sides exchanged. In a random coalition the two sides are
independent, so the mean of a product is the product of the means. This gives

    interaction = 1/2 (weight_change_text @ match_change_text + (weight_change_video @ match_change_video)^T)
    value_text  = 1/2 (weight_change_text @ match_text + match_change_video^T @ weight_video)

Here weight_k and match_k are the expected weight and the expected best match of token k. weight_change[i, k] is the
increase of weight_k when token i joins the same side, and match_change[k, j] is the increase of match_k when token j
joins the other side. The matches follow from the ranks of the similarities. The weights follow from a one-dimensional
integral, evaluated at a fixed number of nodes.
"""

import functools
import math
from typing import NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from hbi_jax.banzhaf.expectation import expected_match, expected_weight_change, product
from hbi_jax.banzhaf.game import as_real, check_index
from hbi_jax.types import ArrayLike

Nodes = tuple[tuple[float, float], ...]  # of a quadrature: position, weight
WEIGHTS = ("softmax", "mean", "sum")
_ROWS_AT_ONCE = 32  # bounds the memory of the comparisons to O(tokens^2) per pair


def interaction(
    similarity: Float[Array, "*b t v"],
    text_logits: Float[Array, "*b t"] | None,
    video_logits: Float[Array, "*b v"] | None,
    text_mask: Bool[Array, "*b t"] | None = None,
    video_mask: Bool[Array, "*b v"] | None = None,
    *,
    weights: str = "softmax",
    index: str = "banzhaf",
    join_probability: SupportsFloat = 0.5,
) -> Float[Array, "*b t v"]:
    """Returns the exact interaction of every word with every frame in the similarity game (HBI V2, Eq. 1 of Eq. 12).

    The interaction is the expectation, over random coalitions of the other tokens, of how much more the word and the
    frame are worth together than separately. It equals `banzhaf.enumerate_interactions` of `banzhaf.coalition_value`
    at a cost of O(t v (t + v)) instead of 2^(t+v). It is deterministic, and differentiable in the logits and, if no two
    entries of a row or a column are equal, in the similarity; equal entries are ordered by index. It is computed in
    float64 if an input is float64, else in float32.

    Masked tokens are not players: the other cells are the same as without them, and their own cells are zero. If a
    side has no real token, every cell is zero. Do not mask with infinite logits: use the masks.

    The values are checked if they are known. Inside `jax.jit`, `jax.grad` or `jax.vmap` they are not; there, a NaN or
    an infinity among the real inputs of a pair makes all real cells of that pair NaN and leaves the other pairs
    unaffected.

    Args:
      similarity: Similarity of each word with each frame; meant for cosines in [-1, 1], but any finite values work.
      text_logits: Unnormalised logits of the word weights (before the softmax), with any finite values. Accuracy falls
        if they spread over more than 35, where each gap between consecutive logits counts for at most 17 (float64:
        26). Logits that are then more than 80 (160) below the largest are treated as equal (docs/banzhaf.md). Unless
        `weights` is "softmax", the logits are ignored and may be None.
      video_logits: Unnormalised logits of the frame weights.
      text_mask: True at real words; None if all are.
      video_mask: True at real frames; None if all are.
      weights: How a coalition combines the best matches of its words (and of its frames): "softmax", weighted by the
        softmax of the logits of the tokens present; "mean", unweighted; "sum", the MaxSim of late-interaction
        retrieval.
      index: "banzhaf", or "shapley" for the Shapley interaction index, which is the integral over all join
        probabilities.
      join_probability: Probability, in (0, 1), that each other token is in the coalition; 0.5 gives the Banzhaf
        interaction. Static: it must be a concrete number outside `jax.jit`.

    Returns:
      The interactions, in the units of `similarity`. Float64 if an input is, else float32.

    Raises:
      ValueError: If shapes do not match, masks are not bool, logits are missing, the similarity or the logits are bool
        or complex, values at real tokens are NaN or infinite, `weights` or `index` is unknown, or the join probability
        is traced or outside (0, 1).
    """
    inputs = _checked(similarity, text_logits, video_logits, text_mask, video_mask, weights)
    return _solve(("pair",), inputs, weights, index, join_probability)[0]


def value(
    similarity: Float[Array, "*b t v"],
    text_logits: Float[Array, "*b t"] | None,
    video_logits: Float[Array, "*b v"] | None,
    text_mask: Bool[Array, "*b t"] | None = None,
    video_mask: Bool[Array, "*b v"] | None = None,
    *,
    weights: str = "softmax",
    index: str = "banzhaf",
    join_probability: SupportsFloat = 0.5,
) -> tuple[Float[Array, "*b t"], Float[Array, "*b v"]]:
    """Returns the exact value of every word and of every frame in the similarity game.

    The value of a token is the expectation, over random coalitions of all other tokens, of how much the token adds to
    the coalition. Depending on the arguments it is the Banzhaf value, the weighted Banzhaf value of another join
    probability, or the Shapley value. It equals `banzhaf.enumerate_values` of `banzhaf.coalition_value`.

    The computation shares its parts with `interaction` and has the same cost and guarantees. Masked tokens are not
    players and have value zero. If a side has no real token, all values are zero. NaN and infinities affect only their
    own pair.

    Args:
      similarity: As for `interaction`, like all other arguments.
      text_logits: Unnormalised logits of the word weights; ignored unless `weights` is "softmax".
      video_logits: Unnormalised logits of the frame weights; ignored unless `weights` is "softmax".
      text_mask: True at real words; None if all are.
      video_mask: True at real frames; None if all are.
      weights: "softmax", "mean" or "sum".
      index: "banzhaf" or "shapley". Shapley values add up to the value of the coalition of all tokens.
      join_probability: Probability, in (0, 1), that each other token is in the coalition.

    Returns:
      The values of the words and of the frames, in the units of `similarity`. Float64 if an input is, else float32.

    Raises:
      ValueError: As for `interaction`.
    """
    inputs = _checked(similarity, text_logits, video_logits, text_mask, video_mask, weights)
    return _solve(("word", "frame"), inputs, weights, index, join_probability)


# --- input --------------------------------------------------------------------------------------------------


def _checked(similarity, text_logits, video_logits, text_mask, video_mask, weights: str) -> tuple[Array, ...]:
    """Returns the similarity, logits and masks, the numbers in one floating dtype.

    Raises:
      ValueError: If they are unusable; see `interaction`.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown; use one of {', '.join(WEIGHTS)}.")
    similarity = jnp.asarray(similarity)
    if similarity.ndim < 2:
        raise ValueError(f"similarity has shape {similarity.shape}; give [..., words, frames].")
    logits, masks = [], []
    for side, shape, given, mask in (
        ("text", similarity.shape[:-1], text_logits, text_mask),
        ("video", similarity.shape[:-2] + similarity.shape[-1:], video_logits, video_mask),
    ):
        if weights == "softmax" and given is None:
            raise ValueError(f"{side}_logits=None; give logits, or use weights='mean' or weights='sum'.")
        logits.append(jnp.asarray(given) if weights == "softmax" else jnp.zeros(shape, similarity.dtype))
        masks.append(jnp.ones(shape, bool) if mask is None else jnp.asarray(mask))
        for name, array in ((f"{side}_logits", logits[-1]), (f"{side}_mask", masks[-1])):
            if array.shape != shape:
                raise ValueError(
                    f"{name} has shape {array.shape}, but similarity {similarity.shape} asks for {shape}; "
                    "give one entry per token, with the batch axes of similarity."
                )
        if masks[-1].dtype != bool:
            raise ValueError(f"{side}_mask has dtype {masks[-1].dtype}; give bool, True at real tokens.")
    arrays = dict(zip(("similarity", "text_logits", "video_logits"), (similarity, *logits), strict=True))
    real = as_real(**arrays)
    for name, array, of in zip(arrays, real, (masks, masks[:1], masks[1:]), strict=True):
        _check_finite(name, array, *of)
    return *real, *masks


def _check_finite(name: str, array: Array, *masks: Array) -> None:
    """Raises ValueError if an entry at a real token is NaN or infinite; skips arrays this process cannot read."""
    if any(isinstance(x, jax.core.Tracer) or not x.is_fully_addressable for x in (array, *masks)):
        return
    bad = ~np.isfinite(np.asarray(array, np.float64)) & functools.reduce(_outer, map(np.asarray, masks))
    if bad.any():
        raise ValueError(
            f"{name} has {bad.sum()} NaN or infinite entries at real tokens, the first at "
            f"{np.argwhere(bad)[0].tolist()}; mask those tokens, or fix the code that computes them."
        )


def _outer(text_mask: Bool[ArrayLike, "*b t"], video_mask: Bool[ArrayLike, "*b v"]) -> Bool[ArrayLike, "*b t v"]:
    """Returns True at the cells of a real word and a real frame."""
    return text_mask[..., :, None] & video_mask[..., None, :]


# --- the game of a pair -------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """Expectations over a random coalition for the tokens k of one side.

    Attributes:
      weight: Expected weight of k, which counts as 0 if k is absent.
      weight_change: [i, k]: change of the expected weight of k when i, of the same side, joins.
      match: Expected best match of k, which counts as 0 if no token of the other side is present.
      match_change: [k, j]: change of the expected best match of k when j, of the other side, joins.
    """

    weight: Float[Array, " n"]
    weight_change: Float[Array, "n n"]
    match: Float[Array, " n"]
    match_change: Float[Array, "n m"]


def _solve(wanted: tuple[str, ...], inputs: tuple[Array, ...], weights: str, index: str, join_probability):
    """Returns the wanted results of `_of_one_pair` for all pairs, integrated over the join probabilities."""
    nodes = _probability_nodes(sum(inputs[0].shape[-2:]), index, check_index(index, join_probability))
    if 0 in inputs[0].shape:  # no tokens: JAX rejects maxima over empty axes
        nothing = dict(zip(("pair", "word", "frame"), inputs, strict=False))
        return tuple(jnp.zeros_like(nothing[name]) for name in wanted)
    return _compiled(*inputs, wanted=wanted, nodes=nodes, softmax=weights != "sum")


@functools.partial(jax.jit, static_argnames=("wanted", "nodes", "softmax"))
def _compiled(*inputs: Array, wanted, nodes, softmax) -> tuple[Array, ...]:
    """Solves checked inputs with batch axes; compiled, so that a call from plain Python is a single dispatch."""

    def of_one_pair(*pair: Array) -> tuple[Array, ...]:
        def at_probability(q):
            results = _of_one_pair(*pair, q=q, softmax=softmax)
            return tuple(results[name] for name in wanted)

        return _integrate(at_probability, nodes, pair[0].dtype)

    for _ in range(inputs[0].ndim - 2):
        of_one_pair = jax.vmap(of_one_pair)
    return of_one_pair(*inputs)


def _of_one_pair(similarity, text_logits, video_logits, text_mask, video_mask, *, q, softmax) -> dict[str, Array]:
    """Returns the results for one pair if every other token joins with probability q."""
    real = _outer(text_mask, video_mask)
    similarity = jnp.where(real, similarity, 0)
    text_logits, video_logits = jnp.where(text_mask, text_logits, 0), jnp.where(video_mask, video_logits, 0)

    def side(similarity, logits, own_mask, other_mask) -> _Side:
        match, match_change = jax.lax.map(
            jax.checkpoint(lambda row: expected_match(row, other_mask, q)), similarity, batch_size=_ROWS_AT_ONCE
        )
        # With weights="sum" every token has weight one and changes only its own weight.
        weight_change = (
            expected_weight_change(logits, own_mask, q) if softmax else jnp.diag(own_mask.astype(logits.dtype))
        )
        return _Side(q * jnp.diag(weight_change), weight_change, match, match_change)

    text = side(similarity, text_logits, text_mask, video_mask)
    video = side(similarity.T, video_logits, video_mask, text_mask)
    pair = product(text.weight_change, text.match_change) + product(video.weight_change, video.match_change).T
    word = product(text.weight_change, text.match) + product(video.weight, video.match_change)
    frame = product(video.weight_change, video.match) + product(text.weight, text.match_change)
    # Comparisons with NaN are false, so some results would look plausible: make all of them NaN.
    finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all() for x in (similarity, text_logits, video_logits)))
    return {
        name: jnp.where(players, jnp.where(finite, 0.5 * doubled, jnp.nan), 0)
        for name, doubled, players in (("pair", pair, real), ("word", word, text_mask), ("frame", frame, video_mask))
    }


# --- the index ----------------------------------------------------------------------------------------------


def _probability_nodes(num_tokens: int, index: str, join_probability: float) -> Nodes:
    """Returns join probabilities and weights such that the weighted sum of the interactions is the index.

    Interactions and values are polynomials of degree `num_tokens - 2` and `num_tokens - 1` in the join probability, so
    Gauss-Legendre quadrature integrates both exactly with num_tokens / 2 or more nodes. For many tokens, fewer nodes
    suffice (the tests measure the error).
    """
    if index == "banzhaf":
        return ((join_probability, 1.0),)
    exact = max(1, math.ceil(num_tokens / 2))
    x, weight = np.polynomial.legendre.leggauss(min(exact, 4 + math.ceil(2.5 * math.sqrt(num_tokens))))
    return tuple(zip((0.5 * (x + 1)).tolist(), (0.5 * weight).tolist(), strict=True))


def _integrate(function, nodes: Nodes, dtype: jnp.dtype) -> PyTree[Array]:
    """Returns the weighted sum of a function over nodes, one node at a time so that memory does not grow with them."""
    if len(nodes) == 1:  # whose weight is one
        return function(nodes[0][0])
    terms = jax.checkpoint(lambda node, weight: jax.tree.map(lambda x: weight * x, function(node)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, jnp.zeros((), dtype)))
    total, _ = jax.lax.scan(
        lambda total, term: (jax.tree.map(jnp.add, total, terms(*term)), None),
        zeros,
        tuple(jnp.asarray(column, dtype) for column in zip(*nodes, strict=True)),
    )
    return total
