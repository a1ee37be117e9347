"""Expected best matches and expected softmax weights of one side of a random coalition.

Every real token is in the coalition with probability q, independently of the others. docs/banzhaf.md derives the
formulas and bounds the error of the quadrature.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_PAIRWISE_LIMIT = 80  # tokens; up to this length, comparing all pairs is faster than sorting


def product(left: Array, right: Array) -> Array:
    """Returns the matrix product at the full precision of the inputs, on accelerators too."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


# --- the best match -----------------------------------------------------------------------------------------


def expected_match(
    similarity: Float[Array, " n"], mask: Bool[Array, " n"], q
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """Returns the expected maximum of a random subset of a row's real elements, and its change when element j joins.

    The element of rank p is the maximum of the subset if it is present and all elements before it are absent, which
    has probability q (1-q)^p. If element j, of rank r, joins, it is the maximum with probability (1-q)^r, and it
    replaces the elements after it, which would have been the maximum without it:

        change_j = s_r (1-q)^r - sum_{p > r} s_p q (1-q)^(p-1)

    The maximum of an empty subset is 0.
    """
    if similarity.shape[0] > _PAIRWISE_LIMIT:
        return _match_by_sorting(similarity, mask, q)
    rank = jnp.sum(_precedes(similarity, mask), axis=0, dtype=jnp.int32)
    best = jnp.where(mask, similarity * _power(1 - q, rank), 0)
    after = jnp.sum(jnp.where(rank[:, None] < rank[None, :], best[None, :], 0), axis=1)
    return q * jnp.sum(best), jnp.where(mask, best - after * (q / (1 - q)), 0)


def _match_by_sorting(similarity: Float[Array, " n"], mask: Bool[Array, " n"], q) -> tuple[Array, Array]:
    """Computes `expected_match` for long rows by sorting, in O(n log n) instead of O(n^2)."""
    order = jnp.argsort(jnp.where(mask, similarity, -jnp.inf), descending=True, stable=True)
    best = jnp.where(mask, similarity, 0)[order] * _power(1 - q, jnp.arange(similarity.shape[0]))
    after = jnp.pad(jax.lax.cumsum(best, reverse=True)[1:], (0, 1))
    change = jnp.zeros_like(best).at[order].set(best - after * (q / (1 - q)), unique_indices=True)
    return q * jnp.sum(best), jnp.where(mask, change, 0)


def _precedes(values: Float[Array, " n"], mask: Bool[Array, " n"]) -> Bool[Array, "n n"]:
    """Returns True at [i, j] if i precedes j in descending order; real values precede masked ones, ties go by index."""
    key = jnp.where(mask, values, -jnp.inf)
    first, second = key[:, None], key[None, :]
    position = jnp.arange(values.shape[0])
    return jnp.where(position[:, None] < position[None, :], first >= second, first > second)


def _power(base, exponent: Array) -> Array:
    """Returns base ** exponent for a base in (0, 1), with one exponential per element."""
    return jnp.exp(exponent * jnp.log(base))


# --- the softmax weight -------------------------------------------------------------------------------------


def expected_weight_change(logits: Float[Array, " n"], mask: Bool[Array, " n"], q) -> Float[Array, "n n"]:
    """Returns at [i, k] the change of the expected softmax weight of token k when token i joins a random set of others.

    With 1/x = int_0^inf e^(-xt) dt, the expectation over a random set becomes a product over the tokens m, in which
    each token contributes f_m = 1 - q + q e^(-w_m t). For k != i

        change[i, k] = - int_0^inf q w_k e^(-w_k t) (1 - e^(-w_i t)) prod_{m != i, k} f_m dt

    With a quadrature over t this is a matrix product without cancellation. The weights of a set add up to one unless
    the set is empty, so each row adds up to the probability that all other tokens are absent. This determines the
    entry k = i.
    """
    dtype = logits.dtype
    log_weight = _log_weight(logits, mask)
    weight = jnp.where(mask, jnp.exp(log_weight), 0)  # a weight of 0 contributes nothing to the products below
    t, step = _time_nodes(jax.lax.stop_gradient(jnp.min(jnp.where(mask, log_weight, 0))), logits.shape[0], dtype)
    exponent = weight[:, None] * t[None, :]
    decay = jnp.exp(-exponent)
    factor = 1 - q + q * decay
    of_all = jnp.exp(jnp.sum(jnp.log(factor), axis=0)) * (q * step)
    joins = (1 - decay) / factor
    loses = exponent * decay / factor * of_all[None, :]
    loss = product(joins, loses.T)

    itself = jnp.eye(logits.shape[0], dtype=bool)
    loss = jnp.where(itself, 0, loss)
    alone = _power(1 - q, jnp.sum(mask, dtype=dtype) - 1)
    gain = jnp.where(mask, alone + jnp.sum(loss, axis=1), 0)
    return jnp.where(itself, gain[:, None], -loss)


def _log_weight(logits: Float[Array, " n"], mask: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Returns the logits relative to the largest real one, with wide gaps narrowed.

    If two consecutive logits in sorted order are further apart than the precision of the dtype, the smaller has no
    weight in a set that holds the larger, and the exact distance does not matter. Narrowing such gaps keeps the range
    of the quadrature short despite outliers. The result is a sum of gaps to the next larger logit, so that no large
    numbers are subtracted.
    """
    rule, precedes = quadrature(logits.dtype), _precedes(logits, mask)
    rank = jnp.sum(precedes, axis=0)
    follows = rank[:, None] + 1 == rank[None, :]
    next_larger = jnp.sum(jnp.where(follows, logits[:, None], 0), axis=0)
    gap = jnp.where(mask & (rank > 0), jnp.minimum(next_larger - logits, rule.gap), 0)
    log_weight = -jnp.sum(jnp.where(rank[:, None] <= rank[None, :], gap[:, None], 0), axis=0)
    return jnp.maximum(log_weight, -rule.spread)


# --- quadratures --------------------------------------------------------------------------------------------


class Quadrature(NamedTuple):
    """Parameters of the quadrature over t; docs/banzhaf.md has the error bounds.

    Attributes:
      nodes: Number of nodes, equally spaced in log t; the error falls like exp(-pi^2 / step).
      left: The first node is exp(-left) / sqrt(tokens); the truncated part contributes less than exp(-2 left) / 4.
      right: The last node is exp(right) / smallest weight; the truncated part contributes about
        exp(right - exp(right)).
      gap: Largest gap between consecutive logits; wider gaps are treated as this one.
      spread: Largest range of logits; smaller logits are treated as equal. A larger range would need exponentials
        outside float32, and in float64 it would cost the larger logits more accuracy than the smaller ones gain.
    """

    nodes: int
    left: float
    right: float
    gap: float
    spread: float


def quadrature(dtype: jnp.dtype) -> Quadrature:
    """Returns the parameters that are accurate to 1e-5 in float32 and 1e-9 in float64 for logits over a range of 25."""
    if dtype == jnp.float64:
        return Quadrature(nodes=160, left=13.0, right=3.7, gap=26.0, spread=160.0)
    return Quadrature(nodes=64, left=8.0, right=3.0, gap=17.0, spread=80.0)


def _time_nodes(lowest: Float[Array, ""], num_tokens: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Returns the nodes t and their spacing in log t, for weights between exp(lowest) and 1."""
    nodes, left, right, *_ = quadrature(dtype)
    start = -left - 0.5 * math.log(num_tokens)
    step = (right - lowest - start) / (nodes - 1)
    return jnp.exp(start + step * jnp.arange(nodes, dtype=dtype)), step
