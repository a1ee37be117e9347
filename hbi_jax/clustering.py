"""DPC-KNN: density-peak clustering of token sets into a static number of clusters (HBI V2, Eq. 9 and 10).

A cluster centre is a token of high density that is far from every token of higher density. The result depends only on
the real tokens of the set: padding, the rest of the batch and random numbers have no effect, and ties are broken by
token order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Clusters(NamedTuple):
    """A partition of the real tokens of a set.

    Attributes:
      assignment: Cluster index of each token; -1 at padding.
      centers: Token index of each cluster's centre, best centre first.
      mask: True if the cluster holds at least one real token. If a set has fewer real tokens than clusters, the last
        clusters are False and their centres are padding.
    """

    assignment: Int[Array, "*b n"]
    centers: Int[Array, "*b c"]
    mask: Bool[Array, "*b c"]


def dpc_knn(
    features: Float[Array, "*b n d"],
    mask: Bool[Array, "*b n"],
    num_clusters: int,
    num_neighbors: int = 3,
) -> Clusters:
    """Clusters the real tokens of each set around its density peaks (HBI V2, Eq. 9 and 10).

    The density of a token is exp(-mean squared distance to the nearest `num_neighbors` real tokens, itself included).
    The indicator of a token is the distance to the nearest token of higher density; for the densest token it is the
    largest distance in the set. The tokens with the largest products of density and indicator become the centres, and
    every other token joins its nearest centre. Distances are divided by sqrt(d), so that densities of wide features do
    not underflow.

    Equal densities, products and distances are ordered by index. No gradient flows through the result. The computation
    is in float64 if the features are float64, else in float32.

    Args:
      features: Token features, of any scale; padding may hold any values.
      mask: True at real tokens.
      num_clusters: Number of clusters, 1 to n.
      num_neighbors: Number of neighbours in the density; all real tokens if there are fewer.

    Returns:
      The clusters, numbered in the order of `centers`.

    Raises:
      ValueError: If `num_clusters` or `num_neighbors` is out of range, or the mask does not fit the features.
    """
    if mask.shape != features.shape[:-1]:
        raise ValueError(
            f"mask has shape {mask.shape}, but features {features.shape} ask for {features.shape[:-1]}; "
            "give one entry per token."
        )
    num_tokens = features.shape[-2]
    if not 1 <= num_clusters <= num_tokens:
        raise ValueError(f"num_clusters={num_clusters} of {num_tokens} tokens is impossible; use 1 to {num_tokens}.")
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors={num_neighbors} leaves the density undefined; use 1 or more.")

    features = jax.lax.stop_gradient(features).astype(jnp.result_type(features, jnp.float32))
    return _dpc_knn(features, mask, num_clusters, min(num_neighbors, num_tokens))


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_neighbors"))
def _dpc_knn(features: Array, mask: Array, num_clusters: int, num_neighbors: int) -> Clusters:
    """Clusters checked inputs with batch axes; compiled, so that a call from plain Python is a single dispatch."""
    of_one_set = functools.partial(_of_one_set, num_clusters=num_clusters, num_neighbors=num_neighbors)
    for _ in range(mask.ndim - 1):
        of_one_set = jax.vmap(of_one_set)
    return of_one_set(features, mask)


def _of_one_set(
    features: Float[Array, "n d"], mask: Bool[Array, " n"], num_clusters: int, num_neighbors: int
) -> Clusters:
    num_tokens = features.shape[0]
    num_real = jnp.sum(mask, dtype=jnp.int32)
    position = jnp.arange(num_tokens, dtype=jnp.int32)
    squared = _squared_distances(jnp.where(mask[:, None], features, 0))
    distance = jnp.sqrt(squared)

    nearest = -jax.lax.top_k(-jnp.where(mask[None, :], squared, jnp.inf), num_neighbors)[0]
    neighbors = jnp.where(jnp.isfinite(nearest), nearest, 0)
    density = jnp.exp(-jnp.sum(neighbors, axis=1) / jnp.clip(num_real, 1, num_neighbors))

    # denser[i, j] is True if j is a real token and denser than i; of two equally dense tokens, the earlier one counts.
    own, other = density[:, None], density[None, :]
    denser = jnp.where(position[None, :] < position[:, None], other >= own, other > own) & mask[None, :]
    largest = jnp.max(jnp.where(mask[:, None] & mask[None, :], distance, 0))
    to_denser = jnp.min(jnp.where(denser, distance, jnp.inf), axis=1)
    indicator = jnp.where(jnp.any(denser, axis=1), to_denser, largest)

    _, centers = jax.lax.top_k(jnp.where(mask, density * indicator, -jnp.inf), num_clusters)
    is_real = jnp.arange(num_clusters) < num_real
    to_center = jnp.where(is_real[None, :], distance[:, centers], jnp.inf)
    # A centre belongs to its own cluster even if another centre is equal to it.
    to_center = jnp.where(position[:, None] == centers[None, :], -1, to_center)
    assignment = jnp.argmin(to_center, axis=1).astype(jnp.int32)
    return Clusters(jnp.where(mask, assignment, -1), centers, is_real)


def _squared_distances(features: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Returns squared distances divided by d, from differences: exactly 0 for equal tokens, unlike x² + y² - 2xy."""
    difference = features[:, None, :] - features[None, :, :]
    return jnp.mean(difference * difference, axis=-1)
