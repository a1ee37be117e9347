"""The data types that all packages share: tokens, encoded items, alignments and batches.

Axis names throughout the library: `a` texts and `b` videos of a pairwise product (only `b` for matched pairs), `t` text
tokens, `v` video tokens, `n` either, `f` frames, `d` features. Masks are True at real tokens.
"""

from collections import OrderedDict
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

T = TypeVar("T")

# Batches are numpy arrays on the host and jax arrays inside compiled functions.
ArrayLike = Array | np.ndarray


# Frames of videos: RGB as uint8 in 0..255, normalised pixels, or a vision tower's features of each frame.
Frames = UInt8[ArrayLike, "b f h w 3"] | Float[ArrayLike, "b f h w 3"] | Float[ArrayLike, "b f d"]


class Tokens(NamedTuple):
    """One set of tokens per row: words, phrases, frames or clips."""

    features: Float[Array, "*b n d"]
    mask: Bool[Array, "*b n"]


class WeightedTokens(NamedTuple):
    """Tokens with the unnormalised logits of their weights (the softmax over the real tokens gives the weights)."""

    features: Float[Array, "*b n d"]
    mask: Bool[Array, "*b n"]
    logits: Float[Array, "*b n"]


class Encoded(NamedTuple):
    """One encoded side of a batch or gallery: its tokens at every level and one pooled vector per row.

    Attributes:
      levels: The tokens of each level by name, from fine to coarse.
      pooled: The sentence vector of a text; the mean of the real frame features of a video.
      members: For each level whose tokens are words, frames or groups of them: the token that each word or frame is
        part of; -1 at padding. None: not known.
    """

    levels: OrderedDict[str, WeightedTokens]
    pooled: Float[Array, "b d"]
    members: OrderedDict[str, Int[Array, "b n"]] | None = None


def finest(levels: OrderedDict[str, T]) -> T:
    """Returns the value of the finest level, which is the first."""
    return next(iter(levels.values()))


class Pair(NamedTuple):
    """The tokens of matched texts and videos at one level: row `i` of both belongs together.

    Attributes:
      text, video: Words and frames.
      text_gate, video_gate: delta and gamma, the shares of the single-modal tokens in the reconstructed tokens (HBI V2,
        Eq. 3 and 5); None without reconstruction.
    """

    text: WeightedTokens
    video: WeightedTokens
    text_gate: Float[Array, "b t"] | None = None
    video_gate: Float[Array, "b v"] | None = None


class Match(NamedTuple):
    """The game of matched texts and videos at one level: row `i` of both belongs together.

    Attributes:
      pair_similarity: Token-by-token cosines of the matched pairs; zero at padding.
      pair_prediction: The prediction header's output for `pair_similarity`: logits of the interaction.
      text, video, text_gate, video_gate: The tokens of the matched pairs at this level, as in `Pair`.
    """

    pair_similarity: Float[Array, "b t v"]
    pair_prediction: Float[Array, "b t v"]
    text: WeightedTokens
    video: WeightedTokens
    text_gate: Float[Array, "b t"] | None = None
    video_gate: Float[Array, "b v"] | None = None


class Alignment(NamedTuple):
    """The outputs of one level for a batch of matched texts and videos: row `i` of both belongs together.

    Attributes:
      similarity: Cosine-based score of every text with every video, in [-1, 1] (Eq. 12).
      pair_similarity, pair_prediction, text, video, text_gate, video_gate: As in `Match`.
    """

    similarity: Float[Array, "a b"]
    pair_similarity: Float[Array, "b t v"]
    pair_prediction: Float[Array, "b t v"]
    text: WeightedTokens
    video: WeightedTokens
    text_gate: Float[Array, "b t"] | None = None
    video_gate: Float[Array, "b v"] | None = None


class Batch(NamedTuple):
    """Matched rows of text and video from the input pipeline.

    Attributes:
      token_ids: CLIP token ids, zero at padding.
      text_mask: True at real tokens, start and end token included.
      frames: RGB, resized and cropped: uint8 in 0..255 from the pipeline, or normalised floats; or the features of each
        frame, where they were computed before.
      frame_mask: True at real frames.
      video_index: Index of the row's video within its split. Rows with the same video are not each other's negatives.
      record_index: Index of the row's record (a text with its video) within its split.
      example_mask: False at masked rows: unreadable videos and the padding of a last batch.
      second_frames, second_mask: A second view of the videos: other frames of the same segments; None without.
      scene_index: Index of what the video shows, where that is known; videos with the same index are duplicates. None
        if it is not known.
    """

    token_ids: Int[ArrayLike, "b t"]
    text_mask: Bool[ArrayLike, "b t"]
    frames: Frames
    frame_mask: Bool[ArrayLike, "b f"]
    video_index: Int[ArrayLike, " b"]
    record_index: Int[ArrayLike, " b"]
    example_mask: Bool[ArrayLike, " b"]
    second_frames: UInt8[ArrayLike, "b f h w 3"] | Float[ArrayLike, "b f h w 3"] | None = None
    second_mask: Bool[ArrayLike, "b f"] | None = None
    scene_index: Int[ArrayLike, " b"] | None = None


def texts_of(
    batch: Batch, token_ids: Int[ArrayLike, "b q t"] | None = None, text_mask: Bool[ArrayLike, "b q t"] | None = None
) -> tuple[Int[ArrayLike, "b q t"], Bool[ArrayLike, "b q t"]]:
    """Returns the given texts of each video, or else the row's own text as the only one of its video."""
    if token_ids is None:
        return batch.token_ids[:, None], batch.text_mask[:, None]
    return token_ids, text_mask
