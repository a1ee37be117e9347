"""The similarity game solved in closed form: interactions and values of its players (docs/banzhaf.md).

The value of a coalition is a sum of products (weight of a word, which depends on the words present) x (its
best match, which depends on the frames present), and the same with the sides exchanged. In a random coalition
the two sides are independent, so that means of products are products of means. What a word and a frame add
together, and what either adds alone, is

    interaction = 1/2 (weight_change_text @ match_change_text + (weight_change_video @ match_change_video)^T)
    value_text  = 1/2 (weight_change_text @ match_text + match_change_video^T @ weight_video)

where weight_k and match_k are the expected weight and the expected best match of token k, weight_change[i, k]
is how much the weight grows when token i joins its side, and match_change[k, j] how much the best match grows
when token j joins the other side. Matches follow from the ranks of the similarities, weights from a
one-dimensional integral with a fixed number of nodes.
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

Nodes = tuple[tuple[float, float], ...]  # of a quadrature: place, weight
WEIGHTS = ("softmax", "mean", "sum")
_ROWS_AT_ONCE = 32  # bounds the memory of comparing: it is O(tokens^2) a pair


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
    """Exact interaction of every word with every frame in the similarity game (HBI V2, Eq. 1 of Eq. 12).

    The expectation, over random coalitions of the other tokens, of what word and frame are worth together
    beyond what each is worth alone. Equal to `banzhaf.enumerate` of `banzhaf.coalition_value`, at a cost of
    O(t v (t + v)) instead of 2^(t+v). Deterministic and differentiable in the similarity (where no two
    entries of a row or a column are equal; equal ones are ordered by index) and in the logits. Computed in
    float32, in float64 where an input is.

    A masked token is no player: the other cells are what they would be without it, and its own are zero. A
    side with no token, or no real one, makes every cell zero. Infinite logits are no way to mask: use the masks.

    Values are checked where they are known. Inside `jax.jit`, `jax.grad` or `jax.vmap` they are not: there a
    pair with a NaN or an infinity among its real inputs is NaN in every real cell, and no other pair notices.

    Args:
      similarity: Similarity of each word with each frame; meant for cosines in [-1, 1], right for any finite
        values.
      text_logits: Unnormalised logits of the word weights (not yet softmaxed), of any finite values. Accuracy
        falls as they spread over more than 35, a step between neighbours in size counting for at most 17 (float64:
        26); what is then 80 (160) below the largest is taken for equal (docs/banzhaf.md). Not read, and allowed
        to be None, unless `weights` is "softmax".
      video_logits: The same for frames.
      text_mask: True at real words; None if all are.
      video_mask: True at real frames; None if all are.
      weights: How a coalition adds up the best matches of its words (and of its frames): "softmax" of the
        logits of those present; their plain "mean"; their "sum", which is MaxSim as late-interaction
        retrieval uses it.
      index: "banzhaf", or "shapley" for the Shapley interaction index, the integral over all join
        probabilities.
      join_probability: Probability, in (0, 1), with which each other token is in the coalition. 0.5 is
        Banzhaf's. Static: a number that is known outside of `jax.jit`.

    Returns:
      The interactions, in the units of `similarity`; float32, or float64 if an input is.

    Raises:
      ValueError: Shapes that do not fit, masks that are not bool, logits missing, similarity or logits that are bool
        or complex, NaN or infinite values at real tokens, an unknown `weights` or `index`, a join probability
        outside (0, 1) or traced.
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
    """Exact value of every word and of every frame in the similarity game.

    The expectation, over random coalitions of all other tokens, of what the token adds to one that it joins:
    the Banzhaf value, the weighted one of another join probability, or the Shapley value. Equal to
    `banzhaf.enumerate_values` of `banzhaf.coalition_value`, from the same pieces as `interaction`, at the same
    cost and with the same guarantees: masked tokens are no players and are worth zero, as all tokens are where
    a side has no real one; what is not finite fills its own pair.

    Args:
      similarity: As of `interaction`, and so are all other arguments; the logits too may be None unless
        `weights` is "softmax".
      text_logits: Unnormalised logits of the word weights.
      video_logits: The same for frames.
      text_mask: True at real words; None if all are.
      video_mask: True at real frames; None if all are.
      weights: "softmax", "mean" or "sum".
      index: "banzhaf" or "shapley". Shapley values add up to the value of all tokens together.
      join_probability: Probability, in (0, 1), with which each other token is in the coalition.

    Returns:
      The values of the words and of the frames, in the units of `similarity`; float32, or float64 if an input
      is.

    Raises:
      ValueError: As `interaction`.
    """
    inputs = _checked(similarity, text_logits, video_logits, text_mask, video_mask, weights)
    return _solve(("word", "frame"), inputs, weights, index, join_probability)


# --- input --------------------------------------------------------------------------------------------------


def _checked(similarity, text_logits, video_logits, text_mask, video_mask, weights: str) -> tuple[Array, ...]:
    """Similarity, logits and masks of one floating dtype, or a ValueError that says what is wrong with them."""
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
                    "give one entry a token, with the batch axes of similarity."
                )
        if masks[-1].dtype != bool:
            raise ValueError(f"{side}_mask has dtype {masks[-1].dtype}; give bool, True at real tokens.")
    arrays = dict(zip(("similarity", "text_logits", "video_logits"), (similarity, *logits), strict=True))
    real = as_real(**arrays)
    for name, array, of in zip(arrays, real, (masks, masks[:1], masks[1:]), strict=True):
        _check_finite(name, array, *of)
    return *real, *masks


def _check_finite(name: str, array: Array, *masks: Array) -> None:
    """Raises ValueError if a real entry of an array is NaN or infinite and this process can see it."""
    if any(isinstance(x, jax.core.Tracer) or not x.is_fully_addressable for x in (array, *masks)):
        return
    bad = ~np.isfinite(np.asarray(array, np.float64)) & functools.reduce(_outer, map(np.asarray, masks))
    if bad.any():
        raise ValueError(
            f"{name} has {bad.sum()} NaN or infinite entries at real tokens, the first at "
            f"{np.argwhere(bad)[0].tolist()}; mask those tokens, or mend what made them."
        )


def _outer(text_mask: Bool[ArrayLike, "*b t"], video_mask: Bool[ArrayLike, "*b v"]) -> Bool[ArrayLike, "*b t v"]:
    """Cells of a real word and a real frame."""
    return text_mask[..., :, None] & video_mask[..., None, :]


# --- the game of a pair -------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """What the tokens k of one side expect of a random coalition.

    Attributes:
      weight: Weight of k; 0 where k is absent.
      weight_change: [i, k]: change of the weight of k when i, of the same side, joins.
      match: Best match of k; 0 where no token of the other side is there.
      match_change: [k, j]: change of the best match of k when j, of the other side, joins.
    """

    weight: Float[Array, " n"]
    weight_change: Float[Array, "n n"]
    match: Float[Array, " n"]
    match_change: Float[Array, "n m"]


def _solve(wanted: tuple[str, ...], inputs: tuple[Array, ...], weights: str, index: str, join_probability):
    """The wanted results of `_of_one_pair`, for all pairs, integrated over the index's join probabilities."""
    nodes = _probability_nodes(sum(inputs[0].shape[-2:]), index, check_index(index, join_probability))
    if 0 in inputs[0].shape:  # nobody to match: reductions over nothing would be refused
        nothing = dict(zip(("pair", "word", "frame"), inputs, strict=False))
        return tuple(jnp.zeros_like(nothing[name]) for name in wanted)
    return _compiled(*inputs, wanted=wanted, nodes=nodes, softmax=weights != "sum")


@functools.partial(jax.jit, static_argnames=("wanted", "nodes", "softmax"))
def _compiled(*inputs: Array, wanted, nodes, softmax) -> tuple[Array, ...]:
    """Checked input with batch axes; compiled, so that a call from plain Python is one dispatch."""

    def of_one_pair(*pair: Array) -> tuple[Array, ...]:
        def at_probability(q):
            results = _of_one_pair(*pair, q=q, softmax=softmax)
            return tuple(results[name] for name in wanted)

        return _integrate(at_probability, nodes, pair[0].dtype)

    for _ in range(inputs[0].ndim - 2):
        of_one_pair = jax.vmap(of_one_pair)
    return of_one_pair(*inputs)


def _of_one_pair(similarity, text_logits, video_logits, text_mask, video_mask, *, q, softmax) -> dict[str, Array]:
    """The results for one pair where every other token joins with probability q."""
    real = _outer(text_mask, video_mask)
    similarity = jnp.where(real, similarity, 0)
    text_logits, video_logits = jnp.where(text_mask, text_logits, 0), jnp.where(video_mask, video_logits, 0)

    def side(similarity, logits, own_mask, other_mask) -> _Side:
        match, match_change = jax.lax.map(
            jax.checkpoint(lambda row: expected_match(row, other_mask, q)), similarity, batch_size=_ROWS_AT_ONCE
        )
        # In a sum every token has weight one and changes no weight but its own.
        weight_change = (
            expected_weight_change(logits, own_mask, q) if softmax else jnp.diag(own_mask.astype(logits.dtype))
        )
        return _Side(q * jnp.diag(weight_change), weight_change, match, match_change)

    text = side(similarity, text_logits, text_mask, video_mask)
    video = side(similarity.T, video_logits, video_mask, text_mask)
    pair = product(text.weight_change, text.match_change) + product(video.weight_change, video.match_change).T
    word = product(text.weight_change, text.match) + product(video.weight, video.match_change)
    frame = product(video.weight_change, video.match) + product(text.weight, text.match_change)
    # Comparisons with NaN are false, so some results would look right: NaN in all of them.
    finite = functools.reduce(jnp.logical_and, (jnp.isfinite(x).all() for x in (similarity, text_logits, video_logits)))
    return {
        name: jnp.where(players, jnp.where(finite, 0.5 * doubled, jnp.nan), 0)
        for name, doubled, players in (("pair", pair, real), ("word", word, text_mask), ("frame", frame, video_mask))
    }


# --- the index ----------------------------------------------------------------------------------------------


def _probability_nodes(num_tokens: int, index: str, join_probability: float) -> Nodes:
    """Join probabilities, each with its weight, whose weighted interactions add up to the index.

    Interactions and values are polynomials of degree `num_tokens - 2` and `num_tokens - 1` in the join
    probability, so Gauss-Legendre integrates both exactly from num_tokens / 2 nodes on. Of many tokens, fewer
    nodes do (tests measure how few).
    """
    if index == "banzhaf":
        return ((join_probability, 1.0),)
    exact = max(1, math.ceil(num_tokens / 2))
    x, weight = np.polynomial.legendre.leggauss(min(exact, 4 + math.ceil(2.5 * math.sqrt(num_tokens))))
    return tuple(zip((0.5 * (x + 1)).tolist(), (0.5 * weight).tolist(), strict=True))


def _integrate(function, nodes: Nodes, dtype: jnp.dtype) -> PyTree[Array]:
    """Weighted sum of a function over nodes, one after the other: memory does not grow with their number."""
    if len(nodes) == 1:  # a single node has weight one
        return function(nodes[0][0])
    terms = jax.checkpoint(lambda node, weight: jax.tree.map(lambda x: weight * x, function(node)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, jnp.zeros((), dtype)))
    total, _ = jax.lax.scan(
        lambda total, term: (jax.tree.map(jnp.add, total, terms(*term)), None),
        zeros,
        tuple(jnp.asarray(column, dtype) for column in zip(*nodes, strict=True)),
    )
    return total
