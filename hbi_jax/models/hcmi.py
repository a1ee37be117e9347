"""HCMI (Tencent Text-Video Retrieval): frames to clips to a video, words to phrases to a sentence, by learned queries.

The paper's abstract is public and its code is not; docs/hcmi.md says what is ours.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hbi_jax.choices import Activation
from hbi_jax.models.clip import ResidualBlock
from hbi_jax.models.dense import dense
from hbi_jax.models.hbi import HBI, TokenWeight
from hbi_jax.models.similarity import token_weights
from hbi_jax.models.token_merge import Merged
from hbi_jax.types import Tokens


class Aggregation(nn.Module):
    """An aggregation layer: self-attention over the tokens, a feed-forward layer, and learned queries.

    A new token is the mean of the tokens, weighted by their attention to its query. There is no projection of the
    values, and a fresh block of self-attention returns its input, so new tokens start in CLIP's joint space.

    Attributes:
      num_tokens: Number of new tokens, at most the number of input tokens.
      num_heads: Attention heads of the self-attention.
      num_layers: Blocks of self-attention and feed-forward layer.
    """

    num_tokens: int
    num_heads: int
    num_layers: int = 1
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "quick_gelu"

    @nn.compact
    def __call__(self, tokens: Tokens) -> Merged:
        """Returns the new tokens. All of a row are real if the row holds a real token; else they are zero and masked.

        Raises:
          ValueError: If there are fewer tokens than queries.
        """
        x: Float[Array, "b n d"] = tokens.features
        mask, (n, d) = tokens.mask, x.shape[1:]
        if self.num_tokens > n:
            raise ValueError(
                f"num_tokens={self.num_tokens} of {n} tokens is impossible; use at most {n}, or more words and frames"
            )
        for layer in range(self.num_layers):
            x = ResidualBlock(
                self.num_heads,
                self.dtype,
                self.activation,
                out_init=nn.initializers.zeros,
                name=f"block_{layer}",
            )(x, mask[:, None, :])
        queries = self.param("queries", nn.initializers.normal(1.0), (self.num_tokens, d))
        h = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        keys = dense(h, d, dtype=self.dtype, name="key").astype(jnp.float32)
        logits = jnp.einsum("cd,bnd->bcn", queries, keys) / jnp.sqrt(jnp.float32(d))
        weights = token_weights(logits, jnp.broadcast_to(mask[:, None, :], logits.shape))
        features = jnp.where(mask[..., None], x, 0).astype(jnp.float32)
        merged = jnp.einsum("bcn,bnd->bcd", weights, features).astype(self.dtype)
        is_real = jnp.broadcast_to(mask.any(axis=1, keepdims=True), merged.shape[:2])
        return Merged(Tokens(merged, is_real))


class HCMI(HBI):
    """A model whose levels are made by aggregation layers; everything else is as in `HBI`.

    With one token a side, as at the last level, the similarity of a level is a cosine.
    """

    def make_merge(self, count: int) -> nn.Module:  # noqa: D102
        config = self.config
        return Aggregation(count, config.merge_heads, config.aggregation_layers, config.dtype, config.clip.activation)

    def make_weight(self, count: int) -> nn.Module:  # noqa: D102
        # The weight of a single token is 1.
        return TokenWeight(0 if count == 1 else self.config.weight_features, dtype=self.config.dtype)
