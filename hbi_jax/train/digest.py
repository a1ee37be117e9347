"""Digests of arrays on their devices: whether a tree is bit by bit what it was, and whether all of it is finite."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree, Shaped, UInt32

from hbi_jax.parallel.mesh import path_name


def digests(tree: PyTree[Array]) -> dict[str, int]:
    """Returns a digest of 32 bits for every leaf, by its path.

    It does not depend on how the leaves are sharded, and any change of a single element changes it.
    """
    return _named(jax.tree.map(_digest, tree))


def not_finite(tree: PyTree[Array]) -> str:
    """Returns the path of the first leaf that holds NaN or infinity; empty if there is none."""
    return next((name for name, finite in _named(jax.tree.map(_is_finite, tree)).items() if not finite), "")


def unlike(found: Mapping[str, int], saved: Mapping[str, int]) -> str:
    """Returns the names of up to three leaves whose digests differ; empty if there is none."""
    names = [name for name in found if found[name] != saved.get(name)]
    return ", ".join(names[:3])


def _named(tree: PyTree[Array]) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_name(path): int(value) for path, value in leaves}


# One program a shape: a program for a whole tree would compile the same computation for each of hundreds of leaves.
@jax.jit
def _is_finite(leaf: Shaped[Array, "..."]) -> Bool[Array, ""]:
    return jnp.isfinite(leaf).all()


@jax.jit
def _digest(leaf: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Returns the sum of an array's bits times odd numbers that count its elements, modulo 2**32."""
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    size = min(leaf.dtype.itemsize, 4)
    bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size]).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        place = place * jnp.uint32(bits.shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    # An odd factor maps different bits to different products, modulo a power of two.
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
