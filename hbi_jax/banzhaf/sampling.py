"""Interactions of any game on two sides of players, estimated from random coalitions (docs/banzhaf.md).

A coalition S is drawn whole: every player is in it with probability q. Give a player the score 1/q where it is in
S and -1/(1-q) where it is not: scores have mean zero and

    E[payoff(S) score_i score_j] = I_ij    for every pair at once,

so each payoff serves all pairs. As scores have mean zero, any constant may be taken from the payoff; the mean of
the *other* payoffs is one that is close to it and independent of the scores. Coalitions come in pairs of opposites,
which takes out of the error all that is odd in the membership, the worth of single players above all.
"""

import functools
import math
from typing import NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from hbi_jax.banzhaf.expectation import product
from hbi_jax.banzhaf.game import Payoff, check_index, coalition_value, payoff_dtype

_MOST_SAMPLES = 2**31 - 1  # they are counted in int32


class Estimate(NamedTuple):
    """Sampled interactions.

    Attributes:
      interaction: The estimate; zero for masked players.
      standard_error: Standard deviation of the estimate, estimated from the same samples.
      num_samples: Coalitions that were evaluated.
    """

    interaction: Float[Array, "t v"]
    standard_error: Float[Array, "t v"]
    num_samples: Int[Array, ""]


class _Sums(NamedTuple):
    """Means within a chunk of what is averaged and of its square, summed over `chunks` chunks."""

    chunks: Int[Array, ""]
    first: Float[Array, "t v"]
    second: Float[Array, "t v"]


def sample(
    payoff: Payoff,
    num_text: int,
    num_video: int,
    key: Key[Array, ""],
    num_samples: int,
    *,
    text_mask: Bool[Array, " t"] | None = None,
    video_mask: Bool[Array, " v"] | None = None,
    join_probability: SupportsFloat = 0.5,
    max_standard_error: SupportsFloat | None = None,
    chunk_size: int = 256,
    mesh: Mesh | None = None,
) -> Estimate:
    """Banzhaf interaction of every text-video pair of players of any game, by sampling (HBI V2, Eq. 1).

    Unbiased for a given number of samples, whatever the payoff. (Stopping at a standard error makes the number
    depend on the samples, which costs a bias of a few percent of that error.) The similarity game needs no sampling: it
    has `hbi_jax.banzhaf.interaction`.

    One game; `jax.vmap` over what the payoff closes over, masks and keys included, for a batch of games. Works
    inside `jax.jit`; differentiable in what the payoff closes over unless `max_standard_error` is given. The result
    depends on the key and `chunk_size`, not on the mesh.

    Args:
      payoff: `payoff(text_in, video_in)`, the value of the coalition of the True players; traceable by JAX. A
        payoff that is NaN for one coalition makes the result NaN.
      num_text: Number of text players.
      num_video: Number of video players.
      key: The p-th pair of opposite coalitions is drawn from `jax.random.fold_in(key, p)`.
      num_samples: Coalitions to evaluate, rounded up to whole chunks.
      text_mask: False at players that are in no coalition: padding. None if all play.
      video_mask: The same for video players.
      join_probability: Probability, in (0, 1), with which each player is in a coalition. 0.5 is Banzhaf's, and has
        the smallest error: it grows like 1/q(1-q).
      max_standard_error: Stop after the first chunk at which no cell's standard error is larger, or at
        `num_samples`.
      chunk_size: Coalitions evaluated at once; even, at least 4.
      mesh: Spread the payoffs of a chunk over all devices of this mesh (of automatic axes); they must divide
        `chunk_size / 2`.

    Returns:
      The estimate, its standard errors and the number of samples; float32, or float64 if the payoff is.

    Raises:
      ValueError: No player on a side, a payoff that is no scalar, masks that do not fit, a join probability outside
        (0, 1), or a number of samples, chunk size, mesh or standard error that cannot be used.
    """
    join_probability = check_index("banzhaf", join_probability)
    dtype = payoff_dtype(payoff, num_text, num_video)
    plays = jnp.concatenate([_mask("text_mask", text_mask, num_text), _mask("video_mask", video_mask, num_video)])
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}; evaluate at least one coalition.")
    if chunk_size < 4 or chunk_size % 2:
        raise ValueError(
            f"chunk_size={chunk_size}; coalitions come in pairs, of which it takes two: use an even 4 or more."
        )
    pairs = chunk_size // 2
    if mesh is not None and pairs % mesh.size:
        raise ValueError(
            f"mesh has {mesh.size} devices, which do not divide the {pairs} pairs of coalitions of "
            f"chunk_size={chunk_size}; use chunk_size={2 * mesh.size * math.ceil(pairs / mesh.size)}."
        )
    num_chunks = math.ceil(num_samples / chunk_size)
    if num_chunks * chunk_size > _MOST_SAMPLES:
        raise ValueError(f"num_samples={num_samples} in whole chunks is more than {_MOST_SAMPLES}; use fewer.")
    known = max_standard_error is not None and not isinstance(max_standard_error, jax.core.Tracer)
    if known and not float(max_standard_error) > 0:
        raise ValueError(
            f"max_standard_error={max_standard_error}; use a positive number, or None to draw all samples."
        )

    spread, gathered = (functools.partial(_placed, mesh=mesh, spread=over) for over in (True, False))

    @functools.partial(jax.checkpoint, prevent_cse=False)  # else a gradient keeps the coalitions of all chunks
    def moments(chunk: Int[Array, ""]) -> tuple[Float[Array, "t v"], Float[Array, "t v"]]:
        numbers = spread(chunk * pairs + jnp.arange(pairs))
        joins = jax.vmap(lambda number: _opposites(jax.random.fold_in(key, number), plays, join_probability))(numbers)
        joins = spread(joins)
        values = spread(jax.vmap(jax.vmap(payoff))(joins[..., :num_text], joins[..., num_text:]))
        # The payoffs are the work. What follows is done alike on every device, so that no sum depends on the mesh.
        return _moments(gathered(values).astype(dtype), gathered(joins), plays, num_text, join_probability)

    def add_chunk(sums: _Sums) -> _Sums:
        first, second = moments(sums.chunks)
        return _Sums(sums.chunks + 1, sums.first + first, sums.second + second)

    def standard_error(sums: _Sums) -> Float[Array, "t v"]:
        variance = jnp.maximum(sums.second / sums.chunks - (sums.first / sums.chunks) ** 2, 0)
        none = variance == 0  # where the square root has no derivative
        return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, variance) / (sums.chunks * pairs - 1)))

    key = gathered(key)
    zero = jnp.zeros((num_text, num_video), dtype)
    sums = _Sums(jnp.zeros((), jnp.int32), zero, zero)
    if max_standard_error is None:
        sums = jax.lax.fori_loop(0, num_chunks, lambda _, sums: add_chunk(sums), sums)
    else:
        sums = jax.lax.while_loop(
            lambda sums: (sums.chunks < num_chunks) & (jnp.max(standard_error(sums)) > max_standard_error),
            add_chunk,
            add_chunk(sums),
        )
    return Estimate(sums.first / sums.chunks, standard_error(sums), sums.chunks * chunk_size)


def _placed(x: Array, *, mesh: Mesh | None, spread: bool) -> Array:
    """The array with its first axis spread over the mesh, or whole on every device of it."""
    if mesh is None:
        return x
    spec = PartitionSpec(mesh.axis_names) if spread else PartitionSpec()
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def sample_similarity(
    similarity: Float[Array, "b t v"],
    text_logits: Float[Array, "b t"],
    video_logits: Float[Array, "b v"],
    text_mask: Bool[Array, "b t"],
    video_mask: Bool[Array, "b v"],
    key: Key[Array, ""],
    num_samples: int,
) -> Float[Array, "b t v"]:
    """What `hbi_jax.banzhaf.interaction` knows exactly, sampled as the papers do: to compare, or as noisy labels.

    Args:
      similarity, text_logits, video_logits, text_mask, video_mask: As of `interaction`.
      key: Row `i` of the batch draws from `jax.random.fold_in(key, i)`.
      num_samples: Coalitions of each row, rounded up to a multiple of four.

    Raises:
      ValueError: One pair without a batch axis, or as `sample`.
    """
    if jnp.ndim(similarity) != 3:
        raise ValueError(
            f"similarity has shape {jnp.shape(similarity)}; give [pairs, words, frames], and every other array with "
            "the same first axis: similarity[None] and so on for one pair."
        )
    # At most some hundred coalitions at once: a chunk of all rows is in memory.
    chunks = max(1, math.ceil(num_samples / 256))
    chunk_size = max(4, 4 * math.ceil(num_samples / chunks / 4))

    def of_one_pair(number, similarity, text_logits, video_logits, text_mask, video_mask):
        return sample(
            functools.partial(coalition_value, similarity, text_logits, video_logits),
            *similarity.shape,
            jax.random.fold_in(key, number),
            num_samples,
            text_mask=text_mask,
            video_mask=video_mask,
            chunk_size=chunk_size,
        ).interaction

    rows = jnp.arange(len(similarity))
    return jax.vmap(of_one_pair)(rows, similarity, text_logits, video_logits, text_mask, video_mask)


def _mask(name: str, mask: Bool[Array, " n"] | None, num_players: int) -> Bool[Array, " n"]:
    """The mask, or one of all players."""
    mask = jnp.ones(num_players, bool) if mask is None else jnp.asarray(mask)
    if mask.shape != (num_players,) or mask.dtype != bool:
        raise ValueError(
            f"{name} has shape {mask.shape} and dtype {mask.dtype}; give bool of shape ({num_players},), "
            "True at players; jax.vmap for a batch of games."
        )
    return mask


def _opposites(key: Key[Array, ""], plays: Bool[Array, " n"], join_probability: float) -> Bool[Array, "2 n"]:
    """Two random coalitions, of which the second is the complement of the first if coins are fair."""
    uniform = jax.random.uniform(key, plays.shape)
    return jnp.stack([uniform < join_probability, uniform >= 1 - join_probability]) & plays[None, :]


def _moments(
    values: Float[Array, "p 2"],
    joins: Bool[Array, "p 2 n"],
    plays: Bool[Array, " n"],
    num_text: int,
    join_probability: float,
) -> tuple[Float[Array, "t v"], Float[Array, "t v"]]:
    """Means, over the pairs of coalitions, of what each pair says of the interactions, and of its square.

    A pair says the mean of its two (payoff - centre) score_i score_j, where the centre is the mean payoff of the
    other pairs.
    """
    average = jnp.mean(values, axis=1)
    centre = (jnp.sum(average) - average) / (len(values) - 1)
    signed = jnp.where(joins, 1 / join_probability, -1 / (1 - join_probability)).astype(values.dtype)
    score = jnp.where(plays[None, None, :], signed, 0)
    text = 0.5 * (values - centre[:, None])[..., None] * score[..., :num_text]
    video = score[..., num_text:]

    def mean(text, video):  # over pairs, summed over what each pair has two or four of
        return product(text.reshape(-1, text.shape[-1]).T, video.reshape(-1, video.shape[-1])) / len(values)

    square = [side[:, :, None] * side[:, None, :] for side in (text, video)]
    return mean(text, video), mean(*square)
