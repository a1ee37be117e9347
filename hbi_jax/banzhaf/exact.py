"""The exact Banzhaf interaction of the similarity game, in closed form (docs/banzhaf.md).

The value of a coalition is a sum of products (weight of a word, which depends on the words present) x (its
best match, which depends on the frames present), and the same with the sides exchanged. In a random coalition
the two sides are independent, so the interaction of all pairs is

    I = 1/2 (weight_change_text @ match_change_text + (weight_change_video @ match_change_video)^T)

where weight_change[i, k] is how much the expected weight of token k changes when token i joins its side, and
match_change[k, j] how much the expected best match of token k changes when token j joins the other side. The
second follows from the ranks of the similarities, the first from a one-dimensional integral with a fixed
number of nodes.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hbi_jax.banzhaf.game import check_index

Nodes = tuple[tuple[float, float], ...]  # of a quadrature: place, weight
WEIGHTS = ("softmax", "mean", "sum")
_PAIRWISE_LIMIT = 64  # tokens; up to here comparing all pairs is faster than sorting
_ROWS_AT_ONCE = 32  # bounds the memory of comparing: it is O(tokens^2) a pair
_LARGEST_SPREAD = 80.0  # of logits; keeps exp within float32


def interaction(
    similarity: Float[Array, "*b t v"],
    text_logits: Float[Array, "*b t"] | None,
    video_logits: Float[Array, "*b v"] | None,
    text_mask: Bool[Array, "*b t"] | None = None,
    video_mask: Bool[Array, "*b v"] | None = None,
    *,
    weights: str = "softmax",
    index: str = "banzhaf",
    join_probability: float = 0.5,
) -> Float[Array, "*b t v"]:
    """Exact interaction of every word with every frame in the similarity game (HBI V2, Eq. 1 of Eq. 12).

    The expectation, over random coalitions of the other tokens, of what word and frame are worth together
    beyond what each is worth alone. Equal to `banzhaf.enumerate` of `banzhaf.coalition_value`, at a cost of
    O(t v (t + v)) instead of 2^(t+v). Deterministic and differentiable in the similarity (where no two
    entries of a row or a column are equal; equal ones are ordered by index) and in the logits. Computed in
    float32, in float64 where an input is.

    A masked token is no player: the other cells are what they would be without it, and its own are zero. A
    side with no real token makes every cell zero. A pair with a NaN or an infinity among its real inputs is
    NaN in every real cell, and no other pair notices. Infinite logits are no way to mask: use the masks.

    Args:
      similarity: Similarity of each word with each frame; meant for cosines in [-1, 1], right for any finite
        values.
      text_logits: Unnormalised logits of the word weights (not yet softmaxed), of any finite values: those
        further apart than e^35 in weight, with no gap among them, lose accuracy slowly (docs/banzhaf.md). Not
        read, and allowed to be None, unless `weights` is "softmax".
      video_logits: The same for frames.
      text_mask: True at real words; None if all are.
      video_mask: True at real frames; None if all are.
      weights: How a coalition adds up the best matches of its words (and of its frames): "softmax" of the
        logits of those present; their plain "mean"; their "sum", which is MaxSim as late-interaction
        retrieval uses it.
      index: "banzhaf", or "shapley" for the Shapley interaction index, the integral over all join
        probabilities.
      join_probability: Probability, in (0, 1), with which each other token is in the coalition. 0.5 is
        Banzhaf's.

    Returns:
      The interactions, in the units of `similarity`; float32, or float64 if an input is.

    Raises:
      ValueError: Shapes that do not fit, masks that are not bool, logits missing, an unknown `weights` or
        `index`, a join probability outside (0, 1).
    """
    check_index(index, join_probability)
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown; use one of {', '.join(WEIGHTS)}.")
    similarity = jnp.asarray(similarity)
    if similarity.ndim < 2:
        raise ValueError(f"similarity has shape {similarity.shape}; give [..., words, frames].")
    sides = []
    for side, shape, logits, mask in (
        ("text", similarity.shape[:-1], text_logits, text_mask),
        ("video", similarity.shape[:-2] + similarity.shape[-1:], video_logits, video_mask),
    ):
        if weights != "softmax":
            logits = jnp.zeros(shape, similarity.dtype)
        elif logits is None:
            raise ValueError(f"{side}_logits=None; give logits, or use weights='mean' or weights='sum'.")
        mask = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
        logits = jnp.asarray(logits)
        for name, array in ((f"{side}_logits", logits), (f"{side}_mask", mask)):
            if array.shape != shape:
                raise ValueError(
                    f"{name} has shape {array.shape}, but similarity {similarity.shape} asks for {shape}; "
                    "give one entry a token, with the batch axes of similarity."
                )
        if mask.dtype != bool:
            raise ValueError(f"{side}_mask has dtype {mask.dtype}; give bool, True at real tokens.")
        sides.append((logits, mask))
    (text_logits, text_mask), (video_logits, video_mask) = sides

    dtype = jnp.result_type(similarity, text_logits, video_logits, jnp.float32)
    similarity, text_logits, video_logits = (x.astype(dtype) for x in (similarity, text_logits, video_logits))
    nodes = _probability_nodes(sum(similarity.shape[-2:]), index, join_probability)
    return _interaction(
        similarity, text_logits, video_logits, text_mask, video_mask, nodes=nodes, softmax=weights != "sum"
    )


@functools.partial(jax.jit, static_argnames=("nodes", "softmax"))
def _interaction(similarity, text_logits, video_logits, text_mask, video_mask, *, nodes, softmax) -> Array:
    """Checked input with batch axes; compiled, so that a call from plain Python is one dispatch."""

    def of_one_pair(*pair: Array) -> Float[Array, "t v"]:
        return _integrate(lambda q: _of_one_pair(*pair, q=q, softmax=softmax), nodes, similarity.dtype)

    for _ in range(similarity.ndim - 2):
        of_one_pair = jax.vmap(of_one_pair)
    return of_one_pair(similarity, text_logits, video_logits, text_mask, video_mask)


def _of_one_pair(similarity, text_logits, video_logits, text_mask, video_mask, *, q, softmax) -> Array:
    """Interaction `[t, v]` of one pair where every other token joins with probability q."""
    real = text_mask[:, None] & video_mask[None, :]
    similarity = jnp.where(real, similarity, 0)
    text_logits, video_logits = jnp.where(text_mask, text_logits, 0), jnp.where(video_mask, video_logits, 0)

    def half(similarity, logits, own_mask, other_mask):
        match_change = jax.lax.map(
            jax.checkpoint(lambda row: _match_change(row, other_mask, q)),
            similarity,
            batch_size=_ROWS_AT_ONCE,
        )
        if not softmax:  # a token of weight one changes no weight but its own
            return jnp.where(own_mask[:, None], match_change, 0)
        return jnp.matmul(_weight_change(logits, own_mask, q), match_change, precision=jax.lax.Precision.HIGHEST)

    text_half = half(similarity, text_logits, text_mask, video_mask)
    video_half = half(similarity.T, video_logits, video_mask, text_mask)
    # Comparisons with NaN are false, so some cells would hold numbers that look right: NaN in all of them.
    finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all() for x in (similarity, text_logits, video_logits)))
    return jnp.where(real, jnp.where(finite, 0.5 * (text_half + video_half.T), jnp.nan), 0)


# --- the best match -----------------------------------------------------------------------------------------


def _match_change(similarity: Float[Array, " n"], mask: Bool[Array, " n"], q) -> Float[Array, " n"]:
    """Change of the expected maximum of a row when element j joins a random set of the other real elements.

    The element of rank p is the maximum of a random set with probability q (1-q)^p: it is in, all before it
    are not. So element j, of rank r, brings (1-q)^r times itself, and takes away those after it, which
    counted without it:

        change_j = s_r (1-q)^r - sum_{p > r} s_p q (1-q)^(p-1),        the maximum of nothing being 0
    """
    if similarity.shape[0] > _PAIRWISE_LIMIT:
        return _match_change_by_sorting(similarity, mask, q)
    precedes = _precedes(similarity, mask)
    rank = jnp.sum(precedes, axis=0, dtype=jnp.int32)
    best = jnp.where(mask, similarity * _power(1 - q, rank), 0)
    after = jnp.sum(jnp.where(precedes, best[None, :], 0), axis=1)
    return jnp.where(mask, best - after * (q / (1 - q)), 0)


def _match_change_by_sorting(similarity: Float[Array, " n"], mask: Bool[Array, " n"], q) -> Float[Array, " n"]:
    """The same as `_match_change` for long rows: O(n log n) in place of O(n^2)."""
    order = jnp.argsort(jnp.where(mask, similarity, -jnp.inf), descending=True, stable=True)
    rank = jnp.arange(similarity.shape[0])
    best = jnp.where(mask, similarity, 0)[order] * _power(1 - q, rank)
    after = jnp.pad(jax.lax.cumsum(best, reverse=True)[1:], (0, 1))
    change = (best - after * (q / (1 - q)))[jnp.argsort(order)]
    return jnp.where(mask, change, 0)


def _precedes(values: Float[Array, " n"], mask: Bool[Array, " n"]) -> Bool[Array, "n n"]:
    """[i, j]: does i come before j in descending order, real before masked, equal ones by index?"""
    key = jnp.where(mask, values, -jnp.inf)
    first, second = key[:, None], key[None, :]
    position = jnp.arange(values.shape[0])
    return jnp.where(position[:, None] < position[None, :], first >= second, first > second)


def _power(base, exponent: Array) -> Array:
    """base ** exponent for a base in (0, 1), one exponential an element."""
    return jnp.exp(exponent * jnp.log(base))


# --- the softmax weight -------------------------------------------------------------------------------------


def _weight_change(logits: Float[Array, " n"], mask: Bool[Array, " n"], q) -> Float[Array, "n n"]:
    """[i, k]: change of the expected softmax weight of token k when token i joins a random set of others.

    With 1/x = int_0^inf e^(-xt) dt the expectation over a random set becomes a product over its tokens m,
    each of which contributes f_m = 1 - q + q e^(-w_m t). For k != i

        change[i, k] = - int_0^inf q w_k e^(-w_k t) (1 - e^(-w_i t)) prod_{m != i, k} f_m dt

    which is a matrix product over the nodes of a quadrature, with nothing to cancel. The weights of a set add
    up to one unless it is empty, so a row adds up to the probability that all other tokens are absent: that
    gives k = i.
    """
    dtype = logits.dtype
    log_weight = _log_weight(logits, mask)
    weight = jnp.where(mask, jnp.exp(log_weight), 0)  # a weight of 0 drops out of every product below
    t, step = _time_nodes(jax.lax.stop_gradient(jnp.min(jnp.where(mask, log_weight, 0))), logits.shape[0], dtype)
    exponent = weight[:, None] * t[None, :]
    decay = jnp.exp(-exponent)
    factor = 1 - q + q * decay
    of_all = jnp.exp(jnp.sum(jnp.log(factor), axis=0)) * (q * step)
    joins = (1 - decay) / factor
    loses = exponent * decay / factor * of_all[None, :]
    loss = jnp.matmul(joins, loses.T, precision=jax.lax.Precision.HIGHEST)

    itself = jnp.eye(logits.shape[0], dtype=bool)
    loss = jnp.where(itself, 0, loss)
    alone = _power(1 - q, jnp.sum(mask, dtype=dtype) - 1)
    gain = jnp.where(mask, alone + jnp.sum(loss, axis=1), 0)
    return jnp.where(itself, gain[:, None], -loss)


def _log_weight(logits: Float[Array, " n"], mask: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Logits relative to the largest real one, with what makes no difference taken out of them.

    Of two neighbours in size further apart than the precision of the dtype, the smaller has no weight beside
    the
    larger: how much further does not matter. Closing such gaps keeps the quadrature's range short whatever
    outliers there are. Written as a sum of gaps to the next larger logit, so that no large numbers are
    subtracted.
    """
    precedes = _precedes(logits, mask)
    rank = jnp.sum(precedes, axis=0)
    follows = rank[:, None] + 1 == rank[None, :]
    next_larger = jnp.sum(jnp.where(follows, logits[:, None], 0), axis=0)
    gap = jnp.where(mask & (rank > 0), jnp.minimum(next_larger - logits, _quadrature(logits.dtype).gap), 0)
    log_weight = -jnp.sum(jnp.where(rank[:, None] <= rank[None, :], gap[:, None], 0), axis=0)
    return jnp.maximum(log_weight, -_LARGEST_SPREAD)


# --- quadratures --------------------------------------------------------------------------------------------


class _Quadrature(NamedTuple):
    """How the integral over t is cut into nodes; docs/banzhaf.md has the error bounds.

    Attributes:
      nodes: Number of nodes, equally spaced in log t: the error falls like exp(-pi^2 / step).
      left: The first node is exp(-left) / sqrt(tokens); what is before it weighs less than exp(-2 left) / 4.
      right: The last node is exp(right) / smallest weight; what is after it weighs about exp(right -
        exp(right)).
      gap: Largest gap between neighbouring logits that is told apart from an infinite one.
    """

    nodes: int
    left: float
    right: float
    gap: float


def _quadrature(dtype: jnp.dtype) -> _Quadrature:
    if dtype == jnp.float64:
        return _Quadrature(nodes=128, left=13.0, right=3.7, gap=32.0)
    return _Quadrature(nodes=64, left=8.0, right=3.0, gap=20.0)


def _time_nodes(lowest: Float[Array, ""], num_tokens: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Nodes t and their spacing in log t, for weights between exp(lowest) and 1."""
    nodes, left, right, _ = _quadrature(dtype)
    start = -left - 0.5 * math.log(num_tokens)
    step = (right - lowest - start) / (nodes - 1)
    return jnp.exp(start + step * jnp.arange(nodes, dtype=dtype)), step


def _probability_nodes(num_tokens: int, index: str, join_probability: float) -> Nodes:
    """Join probabilities, each with its weight, whose weighted interactions add up to the index.

    The interaction is a polynomial of degree `num_tokens - 2` in the join probability, so Gauss-Legendre
    integrates it exactly from (num_tokens - 1) / 2 nodes on. Of many tokens, fewer nodes do (tests measure
    how few).
    """
    if index == "banzhaf":
        return ((join_probability, 1.0),)
    exact = max(1, math.ceil((num_tokens - 1) / 2))
    x, weight = np.polynomial.legendre.leggauss(min(exact, 4 + math.ceil(2.5 * math.sqrt(num_tokens))))
    return tuple(zip((0.5 * (x + 1)).tolist(), (0.5 * weight).tolist(), strict=True))


def _integrate(function, nodes: Nodes, dtype: jnp.dtype) -> Array:
    """Weighted sum of a function over nodes, one after the other: memory does not grow with their number."""
    if len(nodes) == 1:
        ((node, weight),) = nodes
        return weight * function(node)
    terms = jax.checkpoint(lambda node, weight: weight * function(node))
    shape = jax.eval_shape(function, jnp.zeros((), dtype))
    total, _ = jax.lax.scan(
        lambda total, term: (total + terms(*term), None),
        jnp.zeros(shape.shape, dtype),
        tuple(jnp.asarray(column, dtype) for column in zip(*nodes, strict=True)),
    )
    return total
