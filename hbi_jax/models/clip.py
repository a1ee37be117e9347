"""CLIP's two towers: one embedding per image, and one hidden vector per text token.

Parameter names follow the released checkpoints; list indices are joined with `_`: `resblocks_0/attn/in_proj`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from hbi_jax.choices import Activation, AttentionKernel, Pixels, Remat, Scan
from hbi_jax.models.config import CLIPConfig
from hbi_jax.models.dense import HeadProjection, dense
from hbi_jax.models.similarity import in_float32, normalize
from hbi_jax.parallel.pairs import each_row, num_model_shards, platform
from hbi_jax.types import Tokens

# Mean and standard deviation of RGB in 0..1 over CLIP's training images.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
# Mean and standard deviation for the normalisation of pixels, by name. Some CLIPs, such as LAION's ViT-L/14, were
# trained on pixels in -1..1.
PIXELS: dict[Pixels, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": (PIXEL_MEAN, PIXEL_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


# What the backward pass need not recompute, by the name of `remat`.
POLICIES: dict[Remat, Callable[..., bool] | None] = {
    "elementwise": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "blocks": None,
}


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns CLIP's approximation of GELU: x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """Applies the activation function of a CLIP's MLPs, chosen by name."""
    return quick_gelu(x) if activation == "quick_gelu" else jax.nn.gelu(x, approximate=False)


def normalize_pixels(images: UInt8[Array, "*b h w 3"], pixels: Pixels = "clip") -> Float[Array, "*b h w 3"]:
    """Normalises RGB in 0..255 as in the CLIP's training: to about mean 0 and variance 1, or to -1..1."""
    channels = (*(1,) * (images.ndim - 1), 3)
    mean, std = (jnp.array(x).reshape(channels) for x in PIXELS[pixels])
    return (images.astype(jnp.float32) / 255.0 - mean) / std


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    Attributes:
      out_init: Initializer of the output projection.
      implementation: What computes the attention on GPUs; cuDNN's kernels are for attention without mask and bias.
    """

    num_heads: int
    dtype: jax.typing.DTypeLike = jnp.float32
    out_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    implementation: AttentionKernel = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b q n"] | None = None,
        bias: Float[Array, "h n n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns the attended tokens.

        Args:
          x: The tokens.
          mask: True if the query may attend to the key.
          bias: Added to the logits of each head.
        """
        d = x.shape[-1]
        query, key, value = HeadProjection(self.num_heads, dtype=self.dtype, name="in_proj")(x)
        if mask is not None:
            mask = mask[:, None]
        bias = None if bias is None else bias[None]
        chosen = self.implementation if platform() == "gpu" else "xla"
        mixed = jax.nn.dot_product_attention(query, key, value, bias, mask, implementation=chosen)
        return dense(mixed.reshape(x.shape), d, dtype=self.dtype, kernel_init=self.out_init, name="out_proj")


class ResidualBlock(nn.Module):
    """Pre-norm attention and MLP, as in CLIP.

    Attributes:
      mlp_features: Hidden width of the MLP; 0 means four times the input width.
      out_init: Initializer of the last kernel of attention and MLP; with zeros, a fresh block returns its input.
      attention: As `implementation` of `Attention`.
    """

    num_heads: int
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "quick_gelu"
    mlp_features: int = 0
    out_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    attention: AttentionKernel = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b q n"] | None = None,
        bias: Float[Array, "h n n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Applies one layer; `mask` and `bias` are as in `Attention`."""
        d = x.shape[-1]
        h = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="ln_1")(x)
        x = x + Attention(self.num_heads, self.dtype, self.out_init, self.attention, name="attn")(h, mask, bias)
        h = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="ln_2")(x)
        h = activate(dense(h, self.mlp_features or 4 * d, dtype=self.dtype, name="mlp_fc"), self.activation)
        return x + dense(h, d, dtype=self.dtype, kernel_init=self.out_init, name="mlp_proj")


class Transformer(nn.Module):
    """A stack of residual blocks.

    Attributes:
      remat: What the backward pass recomputes. `none`: nothing. `elementwise`: everything except the products with
        kernels. `blocks`: everything from each block's input, at the cost of one more forward pass. `auto`:
        `elementwise` if the layers are a loop, because a loop copies every saved array into a stack and back; else
        `none`. On CPU, nothing saves memory.
      mlp_features: As in `ResidualBlock`.
      scan_layers: Whether the layers are one loop, which is compiled once, rather than one after the other. Parameters
        are the same. `auto`: on TPUs.
      attention: As `implementation` of `Attention`.
    """

    num_layers: int
    num_heads: int
    remat: Remat = "auto"
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "quick_gelu"
    mlp_features: int = 0
    scan_layers: Scan = "auto"
    attention: AttentionKernel = "xla"

    @property
    def _layer(self) -> dict[str, Any]:
        """The arguments of every `ResidualBlock`."""
        names = ("num_heads", "dtype", "activation", "mlp_features", "attention")
        return {name: getattr(self, name) for name in names}

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b q n"] | None = None,
        bias: Float[Array, "h n n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Applies all layers in order; `mask` and `bias` are as in `Attention`."""
        names = [f"resblocks_{layer}" for layer in range(self.num_layers)]
        scan = platform() == "tpu" if self.scan_layers == "auto" else self.scan_layers == "on"
        if names and scan and not self.is_initializing():
            return self._scan(x, mask, bias, names)
        block = nn.remat(ResidualBlock, policy=POLICIES[self.remat]) if self.remat in POLICIES else ResidualBlock
        for name in names:
            x = block(**self._layer, name=name)(x, mask, bias)
        return x

    def _scan(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b q n"] | None,
        bias: Float[Array, "h n n"] | None,
        names: Sequence[str],
    ) -> Float[Array, "b n d"]:
        """Applies the layers of these names in a loop over their stacked parameters."""
        block = ResidualBlock(**self._layer, parent=None)

        def stack(*leaves: Float[Array, "..."]) -> Float[Array, "..."]:
            # Kernels take part in products in the compute dtype, so the stack holds them in that one.
            return jnp.stack([leaf.astype(self.dtype) if leaf.ndim > 1 else leaf for leaf in leaves])

        def loop(
            x: Float[Array, "b n d"],
            mask: Bool[Array, "b q n"] | None,
            params: PyTree,
            bias: Float[Array, "h n n"] | None,
        ) -> Float[Array, "b n d"]:
            def apply(x: Float[Array, "b n d"], params: PyTree) -> tuple[Float[Array, "b n d"], None]:
                return block.apply({"params": params}, x, mask, bias), None

            remat = "elementwise" if self.remat == "auto" else self.remat
            if remat in POLICIES:
                apply = jax.checkpoint(apply, policy=POLICIES[remat], prevent_cse=False)
            return jax.lax.scan(apply, x, params)[0]

        x = x.astype(jnp.promote_types(x.dtype, self.dtype))
        shared = jax.tree.map(stack, *(self.get_variable("params", name) for name in names)), bias
        # `each_row` would take the model axis from the compiler, which could then not divide the widths.
        return loop(x, mask, *shared) if num_model_shards() > 1 else each_row(loop, x, mask, shared=shared)


class PatchEmbedding(nn.Module):
    """CLIP's patch convolution, written as a matrix product, because patches do not overlap.

    Pixels in 0..255 stay integers, which bfloat16 holds exactly. Their normalisation is folded into the product: the
    kernel is scaled, and the result is shifted.

    Attributes:
      num_features: Width of the result.
      patch_size: Side of a square patch, in pixels.
      pixels: The normalisation, a key of `PIXELS`.
    """

    num_features: int
    patch_size: int
    pixels: Pixels = "clip"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Embeds each patch, row by row; `images` is as in `VisionTower`."""
        b, height, width, _ = images.shape
        side = self.patch_size
        # The row of a patch stays whole: arrays whose last axis are three colours are padded to 128 on TPUs.
        cut = images.reshape(b, height // side, side, width // side, side * 3).swapaxes(2, 3)
        patches = cut.reshape(-1, side * side * 3)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (patches.shape[1], self.num_features))
        if images.dtype == jnp.uint8:
            mean, std = (jnp.tile(jnp.array(x), side * side)[:, None] for x in PIXELS[self.pixels])
            # Centred pixels make the product as small as normalised ones would, so that it is rounded as little.
            product = (patches.astype(self.dtype) - 128) @ (kernel / (255 * std)).astype(self.dtype)
            shift = jnp.sum((128 / 255 - mean) / std * kernel, axis=0)
            x = product + shift.astype(self.dtype)[None]
        else:
            x = patches.astype(self.dtype) @ kernel.astype(self.dtype)
        return x.reshape(b, -1, self.num_features)


def _reads(num_patches: int) -> Bool[np.ndarray, "n n"]:
    """Returns which tokens attend to which: the class token and the patches to one another, copies to their patch."""
    n, copies = num_patches, np.eye(num_patches)
    return np.block([[np.ones((1 + n, 1 + n)), np.zeros((1 + n, n))], [np.zeros((n, 1)), copies, copies]]).astype(bool)


class VisionTower(nn.Module):
    """A vision transformer that computes one embedding per image."""

    config: CLIPConfig
    remat: Remat = "auto"
    dtype: jax.typing.DTypeLike = jnp.float32
    scan_layers: Scan = "auto"
    attention: AttentionKernel = "xla"

    def __call__(self, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Encodes RGB images.

        Args:
          images: Pixels in 0..255 as uint8, or normalised pixels as floats.

        Raises:
          ValueError: If the image size differs from the configuration.
        """
        # Only the class token is used after the tower, so only it is normalised and projected.
        return self._encode(images, by_patch=False)

    def patches(self, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Returns a token for every patch, row by row: the class token as it would be if it read this patch alone.

        Each patch has a copy of the class token, which attends to itself and to the patch in every layer. The patches
        still see the whole image. What leaves the tower at the patches themselves is not used, because no loss has
        trained it.

        Args:
          images: As in `__call__`.

        Raises:
          ValueError: If the image size differs from the configuration.
        """
        return self._encode(images, by_patch=True)

    @nn.compact
    def _encode(
        self, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], by_patch: bool
    ) -> Float[Array, "b *n d"]:
        """Returns the class token or, with `by_patch`, its copies for all patches, normalised and projected."""
        config = self.config
        b, h, w, _ = images.shape
        if (h, w) != (config.image_size, config.image_size):
            raise ValueError(
                f"images are {h}x{w} pixels, the model was built for {config.image_size}x{config.image_size}; "
                "resize them, or build the model for their size"
            )
        width, scale = config.vision_width, config.vision_width**-0.5
        x = PatchEmbedding(width, config.patch_size, config.pixels, self.dtype, name="patch_embedding")(images)
        token = self.param("class_embedding", nn.initializers.normal(scale), (width,))
        position = self.param("positional_embedding", nn.initializers.normal(scale), (x.shape[1] + 1, width))
        token = jnp.broadcast_to(token.astype(x.dtype), (b, 1, width))
        x = jnp.concatenate([token, x], axis=1) + position.astype(x.dtype)[None]
        num_tokens, attention, mask = x.shape[1], self.attention, None
        if by_patch:
            # The kernels that the configuration may choose take no mask.
            x, attention = jnp.concatenate([x, jnp.repeat(x[:, :1], num_tokens - 1, axis=1)], axis=1), "xla"
            mask = jnp.broadcast_to(_reads(num_tokens - 1), (b, x.shape[1], x.shape[1]))
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="ln_pre")(x)
        x = Transformer(
            config.vision_layers,
            config.vision_heads,
            self.remat,
            self.dtype,
            config.activation,
            config.vision_mlp_features,
            self.scan_layers,
            attention,
            name="transformer",
        )(x, mask)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="ln_post")(x[:, num_tokens:] if by_patch else x[:, 0])
        return dense(x, config.embed_features, use_bias=False, dtype=self.dtype, name="proj")


class TextTower(nn.Module):
    """A causal transformer over token ids that computes one hidden vector per token and one per sentence."""

    config: CLIPConfig
    remat: Remat = "auto"
    dtype: jax.typing.DTypeLike = jnp.float32
    scan_layers: Scan = "auto"

    @nn.compact
    def __call__(self, token_ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> tuple[Tokens, Float[Array, "b d"]]:
        """Encodes texts of at most `context_length` tokens.

        Args:
          token_ids: Token ids; end-of-text has the largest id of the vocabulary.
          mask: True for real tokens, False for padding.

        Returns:
          The projected hidden vectors of all tokens, and the projected hidden vector of the end-of-text token.

        Raises:
          ValueError: If the texts are longer than `context_length`.
        """
        config = self.config
        t, width = token_ids.shape[1], config.text_width
        if t > config.context_length:
            raise ValueError(
                f"texts of {t} tokens, but the text tower has positions for {config.context_length}; "
                f"use config.data.num_words <= {config.context_length}"
            )
        embed = nn.Embed(
            config.vocab_size,
            width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="token_embedding",
        )
        position = self.param("positional_embedding", nn.initializers.normal(0.01), (config.context_length, width))
        x = embed(token_ids) + position[:t].astype(self.dtype)[None]
        causal = jnp.tril(jnp.ones((t, t), bool))
        x = Transformer(
            config.text_layers,
            config.text_heads,
            self.remat,
            self.dtype,
            config.activation,
            config.text_mlp_features,
            self.scan_layers,
            name="transformer",
        )(x, causal[None] & mask[:, None, :])
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="ln_final")(x)
        x = dense(x, config.embed_features, use_bias=False, dtype=self.dtype, name="text_projection")
        end = jnp.argmax(token_ids, axis=-1)
        sentence = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return Tokens(x, mask), sentence


class CLIP(nn.Module):
    """Both towers and the temperature. Names are as in `HBI`, so these parameters are a subset of an HBI's."""

    config: CLIPConfig
    dtype: jax.typing.DTypeLike = jnp.float32

    def setup(self):  # noqa: D102
        self.text_tower = TextTower(self.config, dtype=self.dtype)
        self.vision_tower = VisionTower(self.config, dtype=self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ())

    def encode_text(self, token_ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> tuple[Tokens, Float[Array, "b d"]]:
        """Returns the hidden vectors of each text's tokens and its sentence vector, as `TextTower` does."""
        return self.text_tower(token_ids, mask)

    def encode_image(self, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns one embedding per image, as `VisionTower` does."""
        return self.vision_tower(images)

    def __call__(
        self,
        token_ids: Int[Array, "a t"],
        mask: Bool[Array, "a t"],
        images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
    ) -> Float[Array, "a b"]:
        """Returns the logits of every text-image pair: the cosine times exp(logit_scale), in float32."""
        _, sentences = self.encode_text(token_ids, mask)
        images = self.encode_image(images)
        with in_float32():
            cosine = normalize(sentences) @ normalize(images).T
        return jnp.exp(self.logit_scale) * cosine
