"""The nouns that every room shares: tokens, encoded items, alignments and batches.

Axes, here and everywhere: `a` texts and `b` videos of a pairwise product (or `b` alone for matched pairs),
`t` text tokens, `v` video tokens, `n` either, `f` frames, `d` features. Masks are True at real tokens.
"""

from collections import OrderedDict
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

T = TypeVar("T")

# What comes from the host is numpy, what a compiled function sees is a jax array.
ArrayLike = Array | np.ndarray


class Tokens(NamedTuple):
    """A set of tokens a row: words, phrases, frames or clips."""

    features: Float[Array, "*b n d"]
    mask: Bool[Array, "*b n"]


class WeightedTokens(NamedTuple):
    """Tokens with the unnormalised logits of their weights (softmax over the real ones gives the weights)."""

    features: Float[Array, "*b n d"]
    mask: Bool[Array, "*b n"]
    logits: Float[Array, "*b n"]


class Encoded(NamedTuple):
    """One side of a batch or gallery, encoded once: its tokens at every level and one pooled vector a row.

    Attributes:
      levels: The tokens of each level by its name, from fine to coarse.
      pooled: The sentence vector of a text; the mean of the real frame features of a video.
    """

    levels: OrderedDict[str, WeightedTokens]
    pooled: Float[Array, "b d"]


def finest(levels: OrderedDict[str, T]) -> T:
    """The value of the finest level, which is the first."""
    return next(iter(levels.values()))


class Pair(NamedTuple):
    """The tokens of one level of texts and videos whose row `i` belong together.

    Attributes:
      text, video: Words and frames.
      text_gate, video_gate: delta and gamma, the shares of the single-modal tokens in the reconstructed ones (HBI V2,
        Eq. 3 and 5); None without reconstruction.
    """

    text: WeightedTokens
    video: WeightedTokens
    text_gate: Float[Array, "b t"] | None = None
    video_gate: Float[Array, "b v"] | None = None


class Alignment(NamedTuple):
    """What one level says of a batch of texts and videos whose row `i` belong together.

    Attributes:
      similarity: Cosine-based score of every text with every video, in [-1, 1] (Eq. 12).
      pair_similarity: Token-by-token cosines of the matched pairs; zero at padding.
      pair_prediction: What the prediction header makes of `pair_similarity`: logits of the interaction.
      text, video, text_gate, video_gate: The matched pairs' tokens at this level, as in `Pair`.
    """

    similarity: Float[Array, "a b"]
    pair_similarity: Float[Array, "b t v"]
    pair_prediction: Float[Array, "b t v"]
    text: WeightedTokens
    video: WeightedTokens
    text_gate: Float[Array, "b t"] | None = None
    video_gate: Float[Array, "b v"] | None = None


class Batch(NamedTuple):
    """Matched rows of text and video, as the input pipeline makes them.

    Attributes:
      token_ids: CLIP token ids, zero at padding.
      text_mask: True at real tokens, start and end token included.
      frames: RGB, resized and cropped: uint8 in 0..255 as the pipeline makes it, or float and normalised.
      frame_mask: True at real frames.
      video_index: Number of the row's video within its split: rows that share it are no negatives.
      record_index: Number of the row's record (a text with its video) within its split.
      example_mask: False where the row stands for nothing: an unreadable video, the filling of a last batch.
    """

    token_ids: Int[ArrayLike, "b t"]
    text_mask: Bool[ArrayLike, "b t"]
    frames: UInt8[ArrayLike, "b f h w 3"] | Float[ArrayLike, "b f h w 3"]
    frame_mask: Bool[ArrayLike, "b f"]
    video_index: Int[ArrayLike, " b"]
    record_index: Int[ArrayLike, " b"]
    example_mask: Bool[ArrayLike, " b"]


def texts_of(
    batch: Batch, token_ids: Int[ArrayLike, "b q t"] | None = None, text_mask: Bool[ArrayLike, "b q t"] | None = None
) -> tuple[Int[ArrayLike, "b q t"], Bool[ArrayLike, "b q t"]]:
    """The several texts of each video where they are given, otherwise the row's own as the only one."""
    if token_ids is None:
        return batch.token_ids[:, None], batch.text_mask[:, None]
    return token_ids, text_mask
