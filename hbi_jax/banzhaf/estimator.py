"""The small network that predicts interaction logits from a similarity matrix: prediction header and estimator."""

import functools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hbi_jax.choices import InteractionNetKind
from hbi_jax.parallel.pairs import each_row

# Bytes of attention logits that a device holds at a time, forward and backward.
_ATTENTION_BYTES = 2**28


def _attend(
    query: Float[Array, "b c 1 h"],
    key: Float[Array, "b c 1 h"],
    value: Float[Array, "b c 1 h"],
    keys: Bool[Array, "b 1 1 c"],
) -> Float[Array, "b c 1 h"]:
    """Returns the attention over the cells of each row, computed in blocks of rows where their logits are large."""
    # The published header does not scale its logits.
    attend = functools.partial(jax.nn.dot_product_attention, scale=1.0)
    rows, cells = query.shape[:2]
    block = max(1, _ATTENTION_BYTES // (4 * cells**2))
    if rows <= block:
        return attend(query, key, value, mask=keys)

    @jax.checkpoint
    def of_row(row: tuple[Array, Array, Array, Array]) -> Float[Array, "c 1 h"]:
        query, key, value, keys = (part[None] for part in row)
        return attend(query, key, value, mask=keys)[0]

    return jax.lax.map(of_row, (query, key, value, keys), batch_size=block)


class InteractionNet(nn.Module):
    """A network with one output for every word-frame cell (HBI V2, Table V; the paper uses `cnn_sa`).

    It is a cell-wise MLP or a 3x3 CNN with two layers, optionally with single-head attention over all cells between
    them. `none` returns the similarity unchanged.
    """

    kind: InteractionNetKind = "cnn_sa"
    num_features: int = 64

    @nn.compact
    def __call__(
        self, similarity: Float[Array, "b t v"], mask: Bool[Array, "b t v"] | None = None
    ) -> Float[Array, "b t v"]:
        """Returns the predictions, in float32.

        Args:
          similarity: Token-by-token cosines, in [-1, 1].
          mask: True at cells whose word and frame are both real. Other cells are treated as outside the matrix: they
            are read as zero, get no attention, and their output is zero.

        Raises:
          ValueError: If `kind` is not one of the five.
        """
        if self.kind not in get_args(InteractionNetKind):
            raise ValueError(f"kind={self.kind!r}; use one of {', '.join(get_args(InteractionNetKind))}")
        real = jnp.ones(similarity.shape, bool) if mask is None else mask
        similarity = jnp.where(real, similarity.astype(jnp.float32), 0)
        if self.kind == "none":
            return similarity
        b, t, v = similarity.shape
        kernel = (3, 3) if self.kind.startswith("cnn") else (1, 1)
        h = nn.relu(nn.Conv(self.num_features, kernel, name="conv_in")(similarity[..., None]))
        h = jnp.where(real[..., None], h, 0)
        if self.kind.endswith("_sa"):
            cells, keys = h.reshape(b, t * v, -1), real.reshape(b, 1, 1, t * v)
            query, key, value = (
                nn.Dense(self.num_features, use_bias=False, name=name)(cells)[:, :, None]
                for name in ("query", "key", "value")
            )
            mixed = each_row(_attend, query, key, value, keys)
            h = jnp.where(real[..., None], h + mixed.reshape(h.shape), 0)
        out = nn.Conv(1, kernel, name="conv_out")(h)[..., 0]
        return jnp.where(real, out, 0)
