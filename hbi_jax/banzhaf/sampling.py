"""Interactions of any two-sided game, estimated from random coalitions (docs/banzhaf.md).

A coalition S contains every player with probability q. Define the score of a player as 1/q if it is in S and as
-1/(1-q) otherwise. Scores have mean zero, and

    E[payoff(S) score_i score_j] = I_ij    for all pairs from the same S,

so each payoff informs all pairs. Because scores have mean zero, any constant may be subtracted from the payoff; the
code subtracts the mean of the *other* payoffs, which is close to the payoff and independent of the scores. Coalitions
are drawn in pairs of opposites. This removes from the error every term that is odd in the membership, above all the
values of single players.
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

_MOST_SAMPLES = 2**31 - 1  # the count is an int32


class Estimate(NamedTuple):
    """Sampled interactions.

    Attributes:
      interaction: The estimate; zero for masked players.
      standard_error: Standard deviation of the estimate, estimated from the same samples.
      num_samples: Number of coalitions evaluated.
    """

    interaction: Float[Array, "t v"]
    standard_error: Float[Array, "t v"]
    num_samples: Int[Array, ""]


class _Sums(NamedTuple):
    """Sums over `chunks` chunks of the mean within a chunk, for the estimate (`first`) and its square (`second`)."""

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
    """Estimates the Banzhaf interaction of every text-video pair of players in any game (HBI V2, Eq. 1).

    For a fixed number of samples the estimate is unbiased for every payoff. (Stopping at a standard error makes the
    number of samples depend on the samples, which causes a bias of a few percent of that error.) The similarity game
    needs no sampling: use `hbi_jax.banzhaf.interaction`.

    The function estimates one game. For a batch of games, use `jax.vmap` over the arrays that the payoff closes over,
    the masks and the keys. It works inside `jax.jit`. It is differentiable in the arrays that the payoff closes over
    unless `max_standard_error` is given. The result depends on the key and `chunk_size`, not on the mesh.

    Args:
      payoff: `payoff(text_in, video_in)` returns the value of the coalition of the True players; traceable by JAX. If
        it is NaN for one coalition, the result is NaN.
      num_text: Number of text players.
      num_video: Number of video players.
      key: The p-th pair of opposite coalitions is drawn from `jax.random.fold_in(key, p)`.
      num_samples: Number of coalitions to evaluate, rounded up to whole chunks.
      text_mask: False at padding, which is in no coalition. None if all text players are real.
      video_mask: The same for video players.
      join_probability: Probability, in (0, 1), that each player is in a coalition. 0.5 gives the Banzhaf interaction
        and the smallest error, which grows like 1/q(1-q).
      max_standard_error: Stop after the first chunk after which no cell has a larger standard error, and at
        `num_samples` at the latest.
      chunk_size: Number of coalitions evaluated at once; even, at least 4.
      mesh: Distribute the payoffs of a chunk over all devices of this mesh (with automatic axes). The number of devices
        must divide `chunk_size / 2`.

    Returns:
      The estimate, its standard errors and the number of samples. Float64 if the payoff is, else float32.

    Raises:
      ValueError: If a side has no player, the payoff is not a scalar, a mask does not fit, the join probability is
        outside (0, 1), or the number of samples, the chunk size, the mesh or the standard error is unusable.
    """
    join_probability = check_index("banzhaf", join_probability)
    dtype = payoff_dtype(payoff, num_text, num_video)
    plays = jnp.concatenate([_mask("text_mask", text_mask, num_text), _mask("video_mask", video_mask, num_video)])
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}; evaluate at least one coalition.")
    if chunk_size < 4 or chunk_size % 2:
        raise ValueError(
            f"chunk_size={chunk_size}; coalitions come in pairs and a chunk needs two: use an even number, 4 or more."
        )
    pairs = chunk_size // 2
    if mesh is not None and pairs % mesh.size:
        raise ValueError(
            f"mesh has {mesh.size} devices, which do not divide the {pairs} pairs of coalitions of "
            f"chunk_size={chunk_size}; use chunk_size={2 * mesh.size * math.ceil(pairs / mesh.size)}."
        )
    num_chunks = math.ceil(num_samples / chunk_size)
    if num_chunks * chunk_size > _MOST_SAMPLES:
        raise ValueError(f"num_samples={num_samples} in whole chunks exceeds {_MOST_SAMPLES}; use fewer.")
    known = max_standard_error is not None and not isinstance(max_standard_error, jax.core.Tracer)
    if known and not float(max_standard_error) > 0:
        raise ValueError(
            f"max_standard_error={max_standard_error}; use a positive number, or None to draw all samples."
        )

    spread, gathered = (functools.partial(_placed, mesh=mesh, spread=over) for over in (True, False))

    @functools.partial(jax.checkpoint, prevent_cse=False)  # otherwise a gradient stores the coalitions of all chunks
    def moments(chunk: Int[Array, ""]) -> tuple[Float[Array, "t v"], Float[Array, "t v"]]:
        numbers = spread(chunk * pairs + jnp.arange(pairs))
        joins = jax.vmap(lambda number: _opposites(jax.random.fold_in(key, number), plays, join_probability))(numbers)
        joins = spread(joins)
        values = spread(jax.vmap(jax.vmap(payoff))(joins[..., :num_text], joins[..., num_text:]))
        # Only the payoffs are expensive. The rest is replicated on every device, so that no sum depends on the mesh.
        return _moments(gathered(values).astype(dtype), gathered(joins), plays, num_text, join_probability)

    def add_chunk(sums: _Sums) -> _Sums:
        first, second = moments(sums.chunks)
        return _Sums(sums.chunks + 1, sums.first + first, sums.second + second)

    def standard_error(sums: _Sums) -> Float[Array, "t v"]:
        variance = jnp.maximum(sums.second / sums.chunks - (sums.first / sums.chunks) ** 2, 0)
        none = variance == 0  # the square root has no derivative there
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
    """Returns the array with its first axis sharded over the mesh, or replicated if `spread` is False."""
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
    """Estimates the interactions of the similarity game by sampling, as the papers do.

    `hbi_jax.banzhaf.interaction` computes the same quantity exactly. This function serves comparisons and noisy labels.

    Args:
      similarity, text_logits, video_logits, text_mask, video_mask: As for `interaction`.
      key: Row `i` of the batch draws from `jax.random.fold_in(key, i)`.
      num_samples: Number of coalitions per row, rounded up to equal chunks of at most 256, each a multiple of four:
        1,000 become 1,008.

    Raises:
      ValueError: If the batch axis is missing, or as for `sample`.
    """
    if jnp.ndim(similarity) != 3:
        raise ValueError(
            f"similarity has shape {jnp.shape(similarity)}; give [pairs, words, frames], and every other array with "
            "the same first axis: similarity[None] and so on for one pair."
        )
    # At most a few hundred coalitions at once, because memory holds a chunk of every row.
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
    """Returns the mask as an array; all True if it is None."""
    mask = jnp.ones(num_players, bool) if mask is None else jnp.asarray(mask)
    if mask.shape != (num_players,) or mask.dtype != bool:
        raise ValueError(
            f"{name} has shape {mask.shape} and dtype {mask.dtype}; give bool of shape ({num_players},), "
            "True at players; jax.vmap for a batch of games."
        )
    return mask


def _opposites(key: Key[Array, ""], plays: Bool[Array, " n"], join_probability: float) -> Bool[Array, "2 n"]:
    """Returns two random coalitions; with join probability 0.5 the second is the complement of the first."""
    uniform = jax.random.uniform(key, plays.shape)
    return jnp.stack([uniform < join_probability, uniform >= 1 - join_probability]) & plays[None, :]


def _moments(
    values: Float[Array, "p 2"],
    joins: Bool[Array, "p 2 n"],
    plays: Bool[Array, " n"],
    num_text: int,
    join_probability: float,
) -> tuple[Float[Array, "t v"], Float[Array, "t v"]]:
    """Returns the mean, over the pairs of coalitions, of each pair's estimate of the interactions and of its square.

    The estimate of a pair is the mean of its two terms (payoff - centre) score_i score_j, where the centre is the mean
    payoff of the other pairs.
    """
    average = jnp.mean(values, axis=1)
    centre = (jnp.sum(average) - average) / (len(values) - 1)
    signed = jnp.where(joins, 1 / join_probability, -1 / (1 - join_probability)).astype(values.dtype)
    score = jnp.where(plays[None, None, :], signed, 0)
    text = 0.5 * (values - centre[:, None])[..., None] * score[..., :num_text]
    video = score[..., num_text:]

    def mean(text, video):  # over pairs; the two (or, in the square, four) terms of a pair are summed
        return product(text.reshape(-1, text.shape[-1]).T, video.reshape(-1, video.shape[-1])) / len(values)

    square = [side[:, :, None] * side[:, None, :] for side in (text, video)]
    return mean(text, video), mean(*square)
