"""A dense layer over tokens that is one plain matrix product, forward and backward."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dense(
    x: Float[Array, "*b d"],
    features: int,
    *,
    name: str,
    use_bias: bool = True,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Float[Array, "*b features"]:
    """`nn.Dense`, a submodule of the caller, with all leading axes merged into one.

    The same numbers and parameters. The gradient of the kernel contracts one axis instead of several, which XLA
    turns into one matrix product where, on CPU, it would else transpose.

    Args:
      x: Features on the last axis.
      features: Width of the result.
      name: Of the submodule, in the parameter tree.
      use_bias: Whether there is a bias.
      dtype: Of the computation.
    """
    layer = nn.Dense(features, use_bias=use_bias, dtype=dtype, name=name)
    return layer(x.reshape(math.prod(x.shape[:-1]), x.shape[-1])).reshape(*x.shape[:-1], features)
