"""A dense layer over tokens that is a single matrix product in both the forward and the backward pass."""

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
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal(),  # noqa: B008 (a pure function)
) -> Float[Array, "*b features"]:
    """Applies `nn.Dense`, as a submodule of the caller, with all leading axes merged into one.

    The results and parameters are those of `nn.Dense`. The gradient of the kernel contracts one axis instead of
    several, so XLA computes it as one matrix product; with several axes, XLA transposes on CPU.

    Args:
      x: Features on the last axis.
      features: Width of the result.
      name: Name of the submodule in the parameter tree.
      use_bias: Whether there is a bias.
      dtype: Dtype of the computation.
      kernel_init: Initializer of the kernel.
    """
    layer = nn.Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)
    return layer(x.reshape(math.prod(x.shape[:-1]), x.shape[-1])).reshape(*x.shape[:-1], features)
