"""A two-layer MLP from a token to a scalar: the logit of the token's weight or the gate of its reconstruction."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hbi_jax.types import ArrayLike


class MLP(NamedTuple):
    """Parameters of Linear - ReLU - Linear with one output."""

    hidden_kernel: Float[ArrayLike, "d h"]
    hidden_bias: Float[ArrayLike, " h"]
    kernel: Float[ArrayLike, "h 1"]
    bias: Float[ArrayLike, " 1"]


class _Affine(nn.Module):
    """The parameters of an `nn.Dense`, under the same names; with `start`, its initial output is that constant."""

    features: int
    start: float | None = None

    @nn.compact
    def __call__(self, num_inputs: int) -> tuple[Float[ArrayLike, "d h"], Float[ArrayLike, " h"]]:
        kernel = nn.initializers.lecun_normal() if self.start is None else nn.initializers.zeros
        bias = nn.initializers.constant(self.start or 0.0)
        return self.param("kernel", kernel, (num_inputs, self.features)), self.param("bias", bias, (self.features,))


class TokenMLP(nn.Module):
    """The owner of an MLP's parameters; `mlp_hidden` and `mlp_output` compute with them.

    Attributes:
      num_features: Hidden width; 0 means no MLP.
      start: Initial output of the MLP for every token; None initialises the second layer at random, like the first.
    """

    num_features: int
    start: float | None = None

    @nn.compact
    def mlp(self, num_inputs: int) -> MLP | None:
        """Returns the parameters for tokens of `num_inputs` features, or None if `num_features` is 0."""
        if not self.num_features:
            return None
        second = _Affine(1, self.start, name="logit")(self.num_features)
        return MLP(*_Affine(self.num_features, name="hidden")(num_inputs), *second)


def mlp_hidden(mlp: MLP, x: Float[Array, "*b d"], dtype: jax.typing.DTypeLike = jnp.float32) -> Float[Array, "*b h"]:
    """Returns the output of the first layer, before the ReLU.

    The layer is affine: it maps a combination of tokens with coefficients that add up to 1 to the same combination of
    their hidden values.
    """
    kernel, bias = mlp.hidden_kernel.astype(dtype), mlp.hidden_bias.astype(dtype)
    # One axis of rows makes the kernel's gradient a single matrix product (see `dense`).
    hidden = x.astype(dtype).reshape(-1, x.shape[-1]) @ kernel + bias[None]
    return hidden.reshape(*x.shape[:-1], -1)


def mlp_output(mlp: MLP, hidden: Float[Array, "*b h"]) -> Float[Array, "*b"]:
    """Returns the output of the ReLU and the second layer, in float32."""
    return jnp.einsum("...h,h->...", nn.relu(hidden.astype(jnp.float32)), mlp.kernel[:, 0]) + mlp.bias[0]
