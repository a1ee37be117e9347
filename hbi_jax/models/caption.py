"""Captioning: HBI with an autoregressive transformer decoder over the video's tokens (HBI V2, Sec. 3.3)."""

from collections import OrderedDict
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hbi_jax.choices import Activation
from hbi_jax.models.clip import activate
from hbi_jax.models.dense import HeadProjection, dense
from hbi_jax.models.hbi import HBI
from hbi_jax.types import Alignment, Batch, WeightedTokens, finest, texts_of


class KeyValue(NamedTuple):
    """The keys and values of attention: one of each for every token and head."""

    key: Float[Array, "b n h e"]
    value: Float[Array, "b n h e"]


class Context(NamedTuple):
    """The cached keys and values of every decoder layer, for a video's tokens or for the words generated so far.

    The cache of the words has room for the words to come.
    """

    layers: tuple[KeyValue, ...]
    mask: Bool[Array, "b n"]


class KeptAttention(nn.Module):
    """Multi-head attention to cached keys and values."""

    num_heads: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        kept: KeyValue,
        mask: Bool[Array, "b _ n"],
        position: int | Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b q d"], KeyValue]:
        """Attends to the cached keys and values.

        Args:
          x: Queries.
          kept: The cached keys and values.
          mask: `mask[b, query, key]` is True if the query may attend to the key.
          position: Index in the cache at which the queries' own keys and values are written before attending; None
            leaves the cache unchanged.

        Returns:
          The attention output and the cache.
        """
        d = x.shape[-1]
        parts = 1 if position is None else 3
        query, *own = HeadProjection(self.num_heads, parts, self.dtype, name="in_proj")(x)
        if own:
            new = (jax.lax.dynamic_update_slice_in_dim(*pair, position, axis=1) for pair in zip(kept, own, strict=True))
            kept = KeyValue(*new)
        mixed = jax.nn.dot_product_attention(query, kept.key, kept.value, mask=mask[:, None])
        return dense(mixed.reshape(x.shape), d, dtype=self.dtype, name="out_proj"), kept


class DecoderBlock(nn.Module):
    """A pre-norm block: attention to the preceding words, attention to the video, and CLIP's MLP."""

    num_heads: int
    dropout_rate: float
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "quick_gelu"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        words: KeyValue,
        words_mask: Bool[Array, "b q n"],
        position: int | Int[Array, ""],
        video: KeyValue,
        video_mask: Bool[Array, "b _ v"],
        deterministic: bool,
    ) -> tuple[Float[Array, "b q d"], KeyValue]:
        """Applies the layer to the words from `position` on; returns their features and the updated cache of words."""
        d = x.shape[-1]
        drop = nn.Dropout(self.dropout_rate, deterministic=deterministic, name="dropout")

        def norm(name: str) -> Float[Array, "b q d"]:
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)(x)

        h, words = KeptAttention(self.num_heads, self.dtype, name="attn")(norm("ln_1"), words, words_mask, position)
        x = x + drop(h)
        h, _ = KeptAttention(self.num_heads, self.dtype, name="video_attn")(norm("ln_2"), video, video_mask)
        x = x + drop(h)
        h = activate(dense(norm("ln_3"), 4 * d, dtype=self.dtype, name="mlp_fc"), self.activation)
        return x + drop(dense(h, d, dtype=self.dtype, name="mlp_proj")), words


class CaptionDecoder(nn.Module):
    """A decoder from a video's tokens and the words so far to logits of the next word.

    Training and decoding share one method, `advance`: training passes a whole caption in one call, decoding passes one
    word per call.

    Attributes:
      num_features: Width, equal to that of the video's tokens.
      vocab_size: Number of tokens in CLIP's vocabulary; the last two are the start and end token.
      max_words: Rows of the words' position embedding.
      max_frames: Rows of the position embedding of the video's tokens. It is needed because the features by themselves
        carry little information about the order.
      dropout_rate: Dropout rate on the embeddings and on the output of every sublayer.
      vocabulary: Token ids that captions may contain, ascending, including padding, start and end; empty means all of
        CLIP's. A softmax over the few tokens that occur in a data set costs a fraction of one over all tokens.
    """

    num_layers: int
    num_heads: int
    num_features: int
    vocab_size: int
    max_words: int
    max_frames: int
    dropout_rate: float = 0.1
    vocabulary: tuple[int, ...] = ()
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "quick_gelu"

    @property
    def choices(self) -> Int[Array, " n"]:
        """The token id that each logit belongs to."""
        return jnp.asarray(self.vocabulary or range(self.vocab_size), jnp.int32)

    @property
    def start_token(self) -> int:
        """The first token of every caption."""
        return self.vocab_size - 2

    @property
    def end_token(self) -> int:
        """The last token of a complete caption."""
        return self.vocab_size - 1

    def setup(self):  # noqa: D102
        d, layers = self.num_features, range(self.num_layers)
        self.token_embedding = nn.Embed(
            self.vocab_size, d, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype
        )
        self.positional_embedding = self.param(
            "positional_embedding", nn.initializers.normal(0.01), (self.max_words, d)
        )
        # Comparable in scale to the normalised features that it is added to.
        self.video_positional_embedding = self.param(
            "video_positional_embedding", nn.initializers.normal(0.5), (self.max_frames, d)
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        self.ln_video = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.video_proj = [nn.Dense(2 * d, dtype=self.dtype) for _ in layers]
        self.resblocks = [DecoderBlock(self.num_heads, self.dropout_rate, self.dtype, self.activation) for _ in layers]
        self.ln_final = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)

    def look(self, video: WeightedTokens) -> Context:
        """Returns the cached keys and values of the videos for `advance`; computed once per video."""
        b, v, d = video.features.shape
        positions = jnp.asarray(self.video_positional_embedding[:v], self.dtype)[None]
        x = (self.ln_video(video.features) + positions).reshape(b * v, d)
        heads = (b, v, 2 * self.num_heads, d // self.num_heads)
        layers = tuple(KeyValue(*jnp.split(proj(x).reshape(heads), 2, axis=-2)) for proj in self.video_proj)
        return Context(layers, video.mask)

    def blank(self, rows: int, length: int) -> Context:
        """Returns an empty cache for captions of `length` tokens.

        Raises:
          ValueError: If the position embedding is shorter.
        """
        if length > self.max_words:
            raise ValueError(
                f"captions of {length} tokens, but the decoder has positions for {self.max_words}; "
                f"use config.captions.max_words and config.data.num_words <= {self.max_words}"
            )
        zeros = jnp.zeros((rows, length, self.num_heads, self.num_features // self.num_heads), self.dtype)
        return Context((KeyValue(zeros, zeros),) * self.num_layers, jnp.zeros((rows, length), bool))

    def advance(
        self,
        token_ids: Int[Array, "b q"],
        mask: Bool[Array, "b q"],
        video: Context,
        words: Context,
        position: int | Int[Array, ""] = 0,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "b q n"], Context]:
        """Advances captions by the given tokens.

        Args:
          token_ids: Tokens from `position` on.
          mask: True at real tokens; the others get no attention.
          video: The result of `look`.
          words: The result of `blank` or of an earlier call; holds the tokens before `position`.
          position: Position of the first given token within its caption.
          deterministic: Turns dropout off; otherwise it uses the RNG `dropout`.

        Returns:
          The logits of each token's successor, in float32, one for each of `choices`, and the updated cache of words.
        """
        places = position + jnp.arange(token_ids.shape[1])
        known = jax.lax.dynamic_update_slice_in_dim(words.mask, mask, position, axis=1)
        causal = jnp.arange(known.shape[1])[None, :] <= places[:, None]
        visible = known[:, None, :] & causal[None]
        x = self.token_embedding(token_ids) + jnp.asarray(self.positional_embedding, self.dtype)[places][None]
        x = self.dropout(x, deterministic=deterministic)
        layers = []
        for block, layer_words, layer_video in zip(self.resblocks, words.layers, video.layers, strict=True):
            x, layer_words = block(
                x, layer_words, visible, position, layer_video, video.mask[:, None, :], deterministic
            )
            layers.append(layer_words)
        x = self.ln_final(x)
        # One plain matrix product; `dense` explains why.
        embedding = self.token_embedding.embedding
        if self.vocabulary:
            embedding = embedding[self.choices]
        rows = x.reshape(-1, self.num_features)
        logits = jnp.einsum("rd,nd->rn", rows, embedding.astype(self.dtype), preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:-1], -1), Context(tuple(layers), known)

    def __call__(
        self,
        token_ids: Int[Array, "b t"],
        mask: Bool[Array, "b t"],
        video: WeightedTokens,
        deterministic: bool = True,
    ) -> Float[Array, "b t n"]:
        """Returns the logits of each token's successor in known captions (teacher forcing); see `advance`."""
        words = self.blank(*token_ids.shape)
        return self.advance(token_ids, mask, self.look(video), words, deterministic=deterministic)[0]


class CaptionHBI(HBI):
    """HBI with a caption decoder; all other parameters are named as in `HBI`.

    The decoder reads the single-modal frames of the first level, both in training and at inference, where no text is
    given.

    Attributes:
      decoder_layers: Layers of the decoder.
      dropout_rate, vocabulary: As in `CaptionDecoder`.
    """

    decoder_layers: int = 1
    dropout_rate: float = 0.1
    vocabulary: tuple[int, ...] = ()

    def setup(self):  # noqa: D102
        super().setup()
        clip = self.config.clip
        self.caption = CaptionDecoder(
            self.decoder_layers,
            clip.joint_heads,
            clip.embed_features,
            clip.vocab_size,
            clip.context_length,
            self.config.max_frames,
            self.dropout_rate,
            self.vocabulary,
            self.config.dtype,
            clip.activation,
        )

    def __call__(
        self,
        batch: Batch,
        deterministic: bool = True,
        token_ids: Int[Array, "b q t"] | None = None,
        text_mask: Bool[Array, "b q t"] | None = None,
    ) -> tuple[OrderedDict[str, Alignment], Float[Array, "bq t1 n"]]:
        """Returns the alignments of the matched rows and the logits of every caption token after the first.

        The logits of a token depend on the preceding tokens of its caption.

        Args:
          batch: The matched rows.
          deterministic: Turns dropout off.
          token_ids, text_mask: Several captions of each video, decoded instead of the rows' own captions; each video is
            still encoded once.
        """
        token_ids, text_mask = texts_of(batch, token_ids, text_mask)
        b, q, t = token_ids.shape
        text = self.encode_text(batch.token_ids, batch.text_mask)
        video = self.encode_video(batch.frames, batch.frame_mask)
        shown = jax.tree.map(lambda x: jnp.repeat(x, q, axis=0), finest(video.levels))
        said = (x.reshape(b * q, t)[:, :-1] for x in (token_ids, text_mask))
        return self.align(text, video), self.caption(*said, shown, deterministic)

    def caption_logits(
        self, video: WeightedTokens, token_ids: Int[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t n"]:
        """Returns the logits of each token's successor in captions, given the first level's frames of their videos."""
        return self.caption(token_ids, mask, video)
