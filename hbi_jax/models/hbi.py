"""HBI: two towers, tokens merged from level to level, and the alignment of text and video at every level."""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.choices import EndTokens
from hbi_jax.models.clip import TextTower, VisionTower, normalize_pixels
from hbi_jax.models.config import HBIConfig
from hbi_jax.models.frames import FrameTransformer
from hbi_jax.models.reconstruction import SideMLPs, reconstruct, reconstructed_wti, reconstruction_side, video_query
from hbi_jax.models.scorer import Scorer, Side
from hbi_jax.models.similarity import in_float32, pair_similarity, wti_of_sides
from hbi_jax.models.token_merge import TokenMerge
from hbi_jax.models.token_mlp import TokenMLP, mlp_hidden, mlp_output
from hbi_jax.types import Alignment, Batch, Encoded, Frames, Match, Pair, Tokens, WeightedTokens


class TokenWeight(TokenMLP):
    """The logit of each token's weight: a two-layer MLP, or 0 if `num_features` is 0."""

    dtype: jax.typing.DTypeLike = jnp.float32

    def __call__(self, tokens: Tokens) -> WeightedTokens:
        """Returns the tokens with logits in float32."""
        features, mask = tokens
        mlp = self.mlp(features.shape[-1])
        if mlp is None:
            return WeightedTokens(features, mask, jnp.zeros(mask.shape, jnp.float32))
        return WeightedTokens(features, mask, mlp_output(mlp, mlp_hidden(mlp, features, self.dtype)))


def _players(mask: Bool[Array, "b t"], ends: EndTokens) -> Bool[Array, "b t"]:
    """Returns the real tokens of each text that are players: its words and some of its ends; all if it has no word."""
    if ends == "both":
        return mask
    place, last = jnp.arange(mask.shape[1])[None], jnp.sum(mask, axis=1, keepdims=True) - 1
    words = mask & (place > 0) & (place < last)
    players = words | (mask & (place == 0)) if ends == "start" else words
    return jnp.where(words.any(axis=1, keepdims=True), players, mask)


class HBI(Scorer):
    """A model that encodes each text and video once and aligns them at every level (HBI, CVPR 2023).

    Galleries use `encode_text` and `encode_video`; training uses `__call__`.
    """

    config: HBIConfig

    def setup(self):  # noqa: D102
        config, clip = self.config, self.config.clip
        self.text_tower = TextTower(clip, config.remat, config.dtype, config.scan_layers)
        self.vision_tower = self.make_vision_tower()
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(config.initial_logit_scale)), ())
        self.frame_transformer = FrameTransformer(
            config.frame_layers,
            clip.joint_heads,
            config.max_frames,
            config.dtype,
            clip.activation,
            config.frame_window,
            config.frame_past,
            config.scan_layers,
            config.frame_positions,
            config.remat,
        )

        def per_level(make):
            return {level.name: make(level) for level in config.levels}

        def merges(side: str):
            return {
                level.name: self.make_merge(getattr(level, side)) for level in config.levels if getattr(level, side)
            }

        self.text_merge, self.video_merge = merges("words"), merges("frames")
        self.text_weight = per_level(lambda level: self.make_weight(level.words))
        self.video_weight = per_level(lambda level: self.make_weight(level.frames))
        # Gates start at 1, so a fresh model equals the model without reconstruction.
        self.text_gate, self.video_gate = (
            per_level(lambda _: TokenMLP(config.gate_features, 1.0)) if config.reconstruction else {} for _ in range(2)
        )
        self.header = per_level(lambda _: InteractionNet(config.header, config.header_features))

    def make_vision_tower(self) -> nn.Module:
        """Returns the module that embeds images; a subclass may return another with the interface of `VisionTower`."""
        config = self.config
        return VisionTower(config.clip, config.remat, config.dtype, config.scan_layers, config.attention)

    def make_merge(self, count: int) -> nn.Module:
        """Returns a module from the tokens of a level to the `count` tokens of the next one."""
        return TokenMerge(count, self.config.merge_heads, self.config.dtype, self.config.padding)

    def make_weight(self, count: int) -> nn.Module:
        """Returns a module that weighs the tokens of a level made of `count` merged tokens; 0: not merged."""
        del count
        return TokenWeight(self.config.weight_features, dtype=self.config.dtype)

    def _precision(self) -> contextlib.AbstractContextManager:
        """Returns a context in which products have the configured precision."""
        precision = self.config.matmul_precision
        return contextlib.nullcontext() if precision == "default" else jax.default_matmul_precision(precision)

    def encode_text(self, token_ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        """Returns the words of each text at every level, and its sentence vector."""
        with self._precision():
            words, sentence = self.text_tower(token_ids, mask)
            words = words._replace(mask=_players(words.mask, self.config.end_tokens))
            return self._encoded(words, sentence, self.text_merge, self.text_weight)

    def encode_video(self, frames: Frames, mask: Bool[Array, "b f"], alone: bool = False) -> Encoded:
        """Returns the frames of each video at every level, and the mean of its real frame features.

        Args:
          frames: Pixels, or what `frame_features` returned for them.
          mask: True at real frames.
          alone: Whether frames do not see one another in the temporal transformer.
        """
        with self._precision():
            frames = Tokens(self.frame_features(frames, mask), mask)
            tokens = sources = self.frame_transformer(frames, "alone" if alone else "window")
            if self.config.frame_past and not alone:
                tokens = self.frame_transformer(frames, "past")
            real = mask[..., None].astype(jnp.float32)
            pooled = (sources.features * real).sum(1) / jnp.maximum(real.sum(1), 1)
            return self._encoded(tokens, pooled, self.video_merge, self.video_weight, sources)

    def encode_patches(self, frames: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]) -> Encoded:
        """Returns the patches of each frame, row by row, as tokens that are not merged at any level.

        They do not pass the temporal transformer, which has only seen whole frames.
        """
        with self._precision():
            patches = self.vision_tower.patches(frames)
            tokens = Tokens(patches, jnp.ones(patches.shape[:2], bool))
            return self._encoded(tokens, patches.mean(axis=1), {}, self.video_weight)

    def frame_features(self, frames: Frames, mask: Bool[Array, "b f"]) -> Float[Array, "b f d"]:
        """Returns the vision tower's features of every frame, computed in `frame_portions` sequential portions.

        Features that are given instead of pixels stay as they are, in the model's precision.
        """
        if frames.ndim == 3:
            return frames.astype(self.config.dtype)
        with self._precision():
            return self._embed(frames, mask)

    def _embed(self, frames: Frames, mask: Bool[Array, "b f"]) -> Float[Array, "b f d"]:
        if self.config.padding == "published":
            # The published code pads after normalisation, so padding is grey rather than black; the merge's
            # convolution sees it.
            pixels = normalize_pixels(frames, self.config.clip.pixels) if frames.dtype == jnp.uint8 else frames
            frames = jnp.where(mask[:, :, None, None, None], pixels, 0)
        (b, f), p = frames.shape[:2], self.config.frame_portions
        if f % p:
            raise ValueError(
                f"videos of {f} frames do not divide into config.model.frame_portions={p}; use a divisor of {f}"
            )
        if p == 1:
            return self.vision_tower(frames.reshape(b * f, *frames.shape[2:])).reshape(b, f, -1)

        @nn.remat
        def encode(tower: nn.Module, images: Array) -> Array:
            return tower(images)

        scan = nn.scan(
            lambda tower, carry, images: (carry, encode(tower, images)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        # Split along the frames, not along the batch, because the batch is sharded over devices.
        portions = jnp.swapaxes(frames.reshape(b, p, f // p, *frames.shape[2:]), 0, 1)
        _, features = scan(self.vision_tower, None, portions.reshape(p, b * f // p, *frames.shape[2:]))
        return jnp.swapaxes(features.reshape(p, b, f // p, -1), 0, 1).reshape(b, f, -1)

    def _encoded(
        self,
        tokens: Tokens,
        pooled: Float[Array, "b d"],
        merges: Mapping,
        weights: Mapping,
        sources: Tokens | None = None,
    ) -> Encoded:
        """Returns the tokens of every level; merged ones are made of `sources`, by default those of the first level."""
        place, real = jnp.arange(tokens.mask.shape[1]), tokens.mask
        if self.config.pooled:
            place, tokens = jnp.zeros_like(place), Tokens(pooled[:, None], tokens.mask.any(axis=1, keepdims=True))
            sources = None
        sources = tokens if sources is None else sources
        levels, members = OrderedDict(), OrderedDict()
        member = jnp.where(real, place, -1)
        for level in self.config.levels:
            if level.name in merges:
                tokens, assignment = merges[level.name](sources)
                sources = tokens
                if member is not None:
                    grouped = assignment is not None
                    member = jnp.where(real, jnp.take_along_axis(assignment, member, axis=1), -1) if grouped else None
            levels[level.name] = weights[level.name](tokens)
            if member is not None:
                members[level.name] = member
        return Encoded(levels, pooled, members)

    def __call__(self, batch: Batch) -> OrderedDict[str, Alignment]:
        """Returns the alignment of a batch at every level; each row holds a text and its own video."""
        text = self.encode_text(batch.token_ids, batch.text_mask)
        return self.align(text, self.encode_video(batch.frames, batch.frame_mask))

    def align(self, text: Encoded, video: Encoded) -> OrderedDict[str, Alignment]:
        """Returns the alignment of matched texts and videos at every level: row `i` of both belongs together."""

        def aligned(level: str) -> Alignment:
            sides = self.text_side(text, level), self.video_side(video, level)
            return Alignment(self.level_similarity(*sides, level), *self.match(text, video, level))

        return OrderedDict((level, aligned(level)) for level in text.levels)

    def match(self, text: Encoded, video: Encoded, level: str) -> Match:
        """Returns the game of matched texts and videos at a level: row `i` of both belongs together."""
        pair = self.pair(text, video, level)
        cosine = pair_similarity(pair.text, pair.video)
        cells = pair.text.mask[:, :, None] & pair.video.mask[:, None, :] if self.config.padding == "masked" else None
        with in_float32():
            return Match(cosine, self.header[level](cosine, cells), *pair)

    def pair(self, text: Encoded, video: Encoded, level: str) -> Pair:
        """Returns the tokens of matched texts and videos at a level, reconstructed if the model does so."""
        words, frames = text.levels[level], video.levels[level]
        if not self.config.reconstruction:
            return Pair(words, frames)
        text_mlps, video_mlps = self._side_mlps(level, words.features.shape[-1])
        how = self.config.dtype, self.config.gate_bound
        new_words = reconstruct(words, video_query(frames), text_mlps, *how)
        new_frames = reconstruct(frames, text.pooled, video_mlps, *how)
        return Pair(new_words.tokens, new_frames.tokens, new_words.gate, new_frames.gate)

    def text_side(self, text: Encoded, level: str) -> Side:  # noqa: D102
        words = text.levels[level]
        if not self.config.reconstruction:
            return super().text_side(text, level)
        mlps, _ = self._side_mlps(level, words.features.shape[-1])
        return reconstruction_side(words, mlps, text.pooled, self.config.dtype)

    def video_side(self, video: Encoded, level: str) -> Side:  # noqa: D102
        frames = video.levels[level]
        if not self.config.reconstruction:
            return super().video_side(video, level)
        _, mlps = self._side_mlps(level, frames.features.shape[-1])
        return reconstruction_side(frames, mlps, dtype=self.config.dtype)

    def level_similarity(  # noqa: D102
        self, texts: Side, videos: Side, level: str, video_block: int = 16
    ) -> Float[Array, "a b"]:
        if not self.config.reconstruction:
            return wti_of_sides(texts, videos, video_block, self.config.padding)
        mlps = self._side_mlps(level, texts.features.shape[-1])
        return reconstructed_wti(texts, videos, *mlps, video_block, self.config.gate_bound)

    def _side_mlps(self, level: str, num_inputs: int) -> tuple[SideMLPs, SideMLPs]:
        """Returns the MLPs of the gates and token weights at a level, for texts and for videos."""
        text, video = (self.text_gate, self.text_weight), (self.video_gate, self.video_weight)
        return tuple(SideMLPs(*(mlps[level].mlp(num_inputs) for mlps in side)) for side in (text, video))
