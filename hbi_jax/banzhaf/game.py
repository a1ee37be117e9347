"""Two-sided games: the payoff of the similarity game, and interactions and values by enumerating all coalitions."""

import math
from collections.abc import Callable
from typing import SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hbi_jax.types import ArrayLike

INDICES = ("banzhaf", "shapley")
MAX_PLAYERS = 20
_COALITIONS_AT_ONCE = 8192

Payoff = Callable[[Bool[Array, " t"], Bool[Array, " v"]], Float[Array, ""]]


def check_index(index: str, join_probability: SupportsFloat) -> float:
    """Returns the join probability as a float.

    Raises:
      ValueError: If `index` is unknown, or `join_probability` is not valid for it.
    """
    if index not in INDICES:
        raise ValueError(f"index={index!r} is unknown; use one of {', '.join(INDICES)}.")
    try:
        join_probability = float(join_probability)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"join_probability={join_probability!r} is not a number, or a traced one; it is static: give a float, from "
            "outside jax.jit, jax.grad and jax.vmap."
        ) from error
    if not 0.0 < join_probability < 1.0:
        raise ValueError(
            f"join_probability={join_probability} is not strictly between 0 and 1; use 0.5 for the Banzhaf interaction."
        )
    if index == "shapley" and join_probability != 0.5:
        raise ValueError(
            f"join_probability={join_probability} has no meaning with index='shapley', which averages over "
            "all of them; leave it out, or use index='banzhaf'."
        )
    return join_probability


def as_real(**arrays: ArrayLike) -> list[ArrayLike]:
    """Returns the arrays in one common floating dtype, at least float32.

    Raises:
      ValueError: If an array is bool or complex.
    """
    for name, array in arrays.items():
        if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
            raise ValueError(f"{name} has dtype {array.dtype}; give real numbers (the masks are separate arguments).")
    dtype = jnp.result_type(*arrays.values(), jnp.float32)
    return [array.astype(dtype) for array in arrays.values()]


def coalition_value(
    similarity: Float[Array, "t v"],
    text_logits: Float[Array, " t"],
    video_logits: Float[Array, " v"],
    text_in: Bool[Array, " t"],
    video_in: Bool[Array, " v"],
) -> Float[Array, ""]:
    """Returns the value of one coalition in the similarity game (HBI V2, Eq. 12 on a coalition).

    Each present token scores its best match among the present tokens of the other side. The scores of a side are
    averaged with softmax weights over the present tokens of that side. Absent tokens have no effect.

    Args:
      similarity: Cosine similarity of one pair, in [-1, 1]. Use `jax.vmap` for a batch.
      text_logits: Unnormalised logits of the word weights (before the softmax).
      video_logits: Unnormalised logits of the frame weights.
      text_in: Words in the coalition; pass `mask & text_in` to exclude padding.
      video_in: Frames in the coalition.

    Returns:
      A scalar in the units of `similarity`; 0 if either side is empty. Float64 if an input is, else float32.

    Raises:
      ValueError: If the similarity or the logits are bool or complex.
    """
    similarity, text_logits, video_logits = as_real(
        similarity=similarity, text_logits=text_logits, video_logits=video_logits
    )
    similarity = jnp.where(text_in[:, None] & video_in[None, :], similarity, 0)  # absent tokens may hold NaN
    text_best = _best_match(similarity, video_in)
    video_best = _best_match(similarity.T, text_in)
    text_score = jnp.sum(_coalition_weights(text_logits, text_in) * text_best)
    video_score = jnp.sum(_coalition_weights(video_logits, video_in) * video_best)
    return 0.5 * (text_score + video_score)


def enumerate_interactions(
    payoff: Payoff,
    num_text: int,
    num_video: int,
    *,
    index: str = "banzhaf",
    join_probability: SupportsFloat = 0.5,
) -> Float[Array, "t v"]:
    """Returns the interaction of every text-video pair of players, by evaluating all coalitions (HBI V2, Eq. 1).

        I_ij = sum_C p(C) [payoff(C+i+j) - payoff(C+i) - payoff(C+j) + payoff(C)],   C without i and j

    Exact for any payoff, but exponential in the number of players; the tests use it as the ground truth. For the
    similarity game, `hbi_jax.banzhaf.interaction` returns the same result in closed form. For other games with many
    players, use `hbi_jax.banzhaf.sample`.

    Args:
      payoff: `payoff(text_in, video_in)` returns the value of the coalition of the True players; traceable by JAX.
      num_text: Number of text players.
      num_video: Number of video players.
      index: "banzhaf": each other player is in C independently with `join_probability`. "shapley": all sizes of C are
        equally likely, and all coalitions of one size are equally likely (the Shapley interaction index).
      join_probability: In (0, 1); 0.5 makes all coalitions equally likely, which gives the Banzhaf interaction.

    Returns:
      The interactions, in the units of the payoff. Float64 if the payoff is, else float32.

    Raises:
      ValueError: If a side has no player, there are more than `MAX_PLAYERS` in total, the payoff is not a scalar, the
        index is unknown, or the join probability is outside (0, 1).
    """
    coalitions, values = _evaluate(payoff, num_text, num_video, index, join_probability)
    text_in, video_in = coalitions[:, :num_text], coalitions[:, num_text:]
    size, probability = jnp.sum(coalitions, axis=1), _probability(len(coalitions[0]) - 2, index, join_probability)
    total = jnp.zeros((num_text, num_video), values.dtype)
    # One matrix product for each of the four terms: i in or out, j in or out.
    for i_in in (False, True):
        for j_in in (False, True):
            signed = (1 if i_in == j_in else -1) * probability(size - i_in - j_in).astype(values.dtype) * values
            has_i = (text_in == i_in).astype(values.dtype)
            has_j = (video_in == j_in).astype(values.dtype)
            total += jnp.matmul(has_i.T, signed[:, None] * has_j, precision=jax.lax.Precision.HIGHEST)
    return total


def enumerate_values(
    payoff: Payoff,
    num_text: int,
    num_video: int,
    *,
    index: str = "banzhaf",
    join_probability: SupportsFloat = 0.5,
) -> tuple[Float[Array, " t"], Float[Array, " v"]]:
    """Returns the value of every player, its mean contribution to a coalition, by evaluating all coalitions.

        value_i = sum_C p(C) [payoff(C+i) - payoff(C)],   C without i

    The default is the Banzhaf value; `index="shapley"` gives the Shapley value. `hbi_jax.banzhaf.value` returns the
    same result for the similarity game in closed form.

    Args:
      payoff: As for `enumerate_interactions`, like the other arguments.
      num_text: Number of text players.
      num_video: Number of video players.
      index: "banzhaf" or "shapley".
      join_probability: In (0, 1).

    Returns:
      The values of the text players and of the video players. Float64 if the payoff is, else float32.

    Raises:
      ValueError: As for `enumerate_interactions`.
    """
    coalitions, values = _evaluate(payoff, num_text, num_video, index, join_probability)
    size, probability = jnp.sum(coalitions, axis=1), _probability(len(coalitions[0]) - 1, index, join_probability)
    total = jnp.zeros(num_text + num_video, values.dtype)
    for inside, sign in ((True, 1), (False, -1)):
        signed = sign * probability(size - inside).astype(values.dtype) * values
        has_i = (coalitions == inside).astype(values.dtype)
        total += jnp.matmul(has_i.T, signed, precision=jax.lax.Precision.HIGHEST)
    return total[:num_text], total[num_text:]


def payoff_dtype(payoff: Payoff, num_text: int, num_video: int) -> jnp.dtype:
    """Returns the dtype to compute in.

    Raises:
      ValueError: If a side has no player, or the payoff does not return a scalar.
    """
    if num_text < 1 or num_video < 1:
        raise ValueError(f"num_text={num_text}, num_video={num_video}: give each side at least one player.")
    value = jax.eval_shape(payoff, *(jax.ShapeDtypeStruct((n,), bool) for n in (num_text, num_video)))
    if getattr(value, "shape", None) != ():
        raise ValueError(f"payoff(text_in, video_in) returns {value}; let it return one number, the coalition's value.")
    return jnp.result_type(value.dtype, jnp.float32)


def _evaluate(
    payoff: Payoff, num_text: int, num_video: int, index: str, join_probability: float
) -> tuple[Bool[Array, "s n"], Float[Array, " s"]]:
    """Checks the arguments and returns all coalitions, text players first, with their values."""
    join_probability = check_index(index, join_probability)
    num_players = num_text + num_video
    if num_players > MAX_PLAYERS:
        raise ValueError(
            f"num_text + num_video = {num_players} players make 2^{num_players} coalitions, more than "
            f"2^{MAX_PLAYERS}; use fewer players or banzhaf.sample, or, for the similarity game, banzhaf.interaction "
            "and banzhaf.value, which have no such limit."
        )
    dtype = payoff_dtype(payoff, num_text, num_video)
    coalitions = jnp.asarray(np.indices((2,) * num_players, dtype=bool).reshape(num_players, -1).T)
    sides = coalitions[:, :num_text], coalitions[:, num_text:]
    return coalitions, jax.lax.map(lambda s: payoff(*s), sides, batch_size=_COALITIONS_AT_ONCE).astype(dtype)


def _probability(
    num_others: int, index: str, join_probability: float
) -> Callable[[Int[Array, " s"]], Float[Array, " s"]]:
    """Returns a function from a coalition's size to its probability among the other players; 0 for impossible sizes."""
    sizes = range(num_others + 1)
    if index == "shapley":
        table = [1 / ((num_others + 1) * math.comb(num_others, size)) for size in sizes]
    else:
        table = [join_probability**size * (1 - join_probability) ** (num_others - size) for size in sizes]
    return lambda size: jnp.where((size >= 0) & (size <= num_others), jnp.asarray(table)[size], 0)


def _best_match(similarity: Float[Array, "n m"], present: Bool[Array, " m"]) -> Float[Array, " n"]:
    """Returns the largest similarity of each row over the present columns; 0 if none is present."""
    best = jnp.max(similarity, axis=1, where=present[None, :], initial=-jnp.inf)
    return jnp.where(jnp.any(present), best, 0)


def _coalition_weights(logits: Float[Array, " n"], present: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Returns the softmax over the present tokens; 0 for absent tokens, even if none is present."""
    largest = jnp.max(logits, where=present, initial=jnp.finfo(logits.dtype).min)
    unnormalised = jnp.where(present, jnp.exp(jnp.where(present, logits - largest, 0)), 0)
    return unnormalised / jnp.where(jnp.any(present), jnp.sum(unnormalised), 1)
