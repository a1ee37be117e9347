"""Dense layers over tokens, each a single matrix product in both the forward and the backward pass."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hbi_jax.parallel.pairs import num_model_shards, split_along_model


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


class HeadProjection(nn.Module):
    """CLIP's fused projection of tokens to the queries, keys and values of every attention head.

    The parameters are those of `nn.Dense`, with the queries of all heads first. If the mesh divides the towers' widths,
    each device computes whole heads, so that no tokens are exchanged for attention, only the kernel and its gradient.

    Attributes:
      num_heads: Number of heads, of d / num_heads features each.
      num_parts: 3; 1 for queries only.
      dtype: Dtype of the computation.
    """

    num_heads: int
    num_parts: int = 3
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"]) -> tuple[Float[Array, "*b n h f"], ...]:
        """Returns each part by head."""
        d = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (d, self.num_parts * d))
        bias = self.param("bias", nn.initializers.zeros, (self.num_parts * d,))
        kernel, bias = jnp.asarray(kernel, self.dtype), jnp.asarray(bias, self.dtype)[None]
        tokens = x.astype(self.dtype).reshape(-1, d)

        def by_head(values: Float[Array, "r _"]) -> Float[Array, "r p h f"]:
            return values.reshape(len(values), self.num_parts, self.num_heads, -1)

        if num_model_shards() == 1:
            # A matrix, which is stored for the backward pass without padding.
            projected = by_head(tokens @ kernel + bias)
        else:
            kernel, bias = (split_along_model(by_head(values), 2) for values in (kernel, bias))
            projected = jnp.tensordot(tokens, kernel, 1) + bias
        parts = jnp.moveaxis(projected, 1, 0)
        return tuple(part.reshape(*x.shape[:-1], *part.shape[1:]) for part in parts)
