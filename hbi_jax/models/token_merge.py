"""The merge from one level to the next: tokens are clustered, averaged within clusters and refined by attention."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hbi_jax.choices import Padding
from hbi_jax.clustering import dpc_knn
from hbi_jax.models.dense import dense
from hbi_jax.models.similarity import token_weights
from hbi_jax.parallel.pairs import each_row
from hbi_jax.types import Tokens


class ScoredAttention(nn.Module):
    """Cross-attention from merged tokens to their source tokens; a token's score is added to its attention logits."""

    num_heads: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b c d"],
        tokens: Float[Array, "b n d"],
        scores: Float[Array, "b n"],
        mask: Bool[Array, "b n"],
    ) -> Float[Array, "b c d"]:
        """Returns the attention output over the real tokens."""
        b, n, d = tokens.shape
        query = dense(queries, d, dtype=self.dtype, name="q").reshape(b, -1, self.num_heads, d // self.num_heads)
        key_value = dense(tokens, 2 * d, dtype=self.dtype, name="kv")
        key, value = jnp.split(key_value.reshape(b, n, 2 * self.num_heads, -1), 2, axis=-2)
        mixed = jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=scores.astype(self.dtype)[:, None, None, :],
            mask=mask[:, None, None, :],
        )
        return dense(mixed.reshape(queries.shape), d, dtype=self.dtype, name="proj")


class Merged(NamedTuple):
    """Merged tokens.

    Attributes:
      tokens: The tokens.
      assignment: The merged token that each source token is part of; -1 at padding. None if merged tokens are no
        groups.
    """

    tokens: Tokens
    assignment: Int[Array, "b n"] | None = None


class TokenMerge(nn.Module):
    """A merge of tokens into a static number of clusters (HBI V2, Fig. 6, Eq. 9 to 11).

    Attributes:
      num_clusters: Number of merged tokens, at most the number of input tokens.
      padding: With `published`, the values at padding reach neighbouring tokens through the convolution, and every
        merged token is real.
    """

    num_clusters: int
    num_heads: int = 8
    dtype: jax.typing.DTypeLike = jnp.float32
    padding: Padding = "masked"

    @nn.compact
    def __call__(self, tokens: Tokens) -> Merged:
        """Returns the merged tokens; a merged token is real if its cluster holds a real token."""
        x, mask = tokens
        d = x.shape[-1]
        if self.padding == "masked":
            x = jnp.where(mask[..., None], x, 0)
        x = x + nn.Conv(d, (3,), use_bias=False, dtype=self.dtype, name="conv")(x)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        scores = dense(x, 1, dtype=jnp.float32, name="score")[..., 0]

        clusters = each_row(functools.partial(dpc_knn, num_clusters=self.num_clusters), x, mask)
        # Padding has assignment -1, so it is in no cluster. The softmax is taken within each cluster, so that low
        # scores still determine the weights if another cluster has far higher ones.
        member = clusters.assignment[:, None, :] == jnp.arange(self.num_clusters)[None, :, None]
        weights = token_weights(jnp.broadcast_to(scores[:, None, :], member.shape), member)
        merged = jnp.einsum("bcn,bnd->bcd", weights, x.astype(jnp.float32)).astype(self.dtype)

        norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="attention_norm")
        merged = merged + ScoredAttention(self.num_heads, self.dtype, name="attention")(
            norm(merged), norm(x), scores, mask
        )
        real = clusters.mask if self.padding == "masked" else jnp.ones_like(clusters.mask)
        return Merged(Tokens(merged, real), clusters.assignment)
