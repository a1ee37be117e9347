"""Texts and videos as arrays: the tokens, their weights and the pooled vectors that a model computes."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from hbi_jax.data.decode import VideoError
from hbi_jax.search import scan
from hbi_jax.search.clips import Clips, read_clips
from hbi_jax.search.encoder import BATCH, Encoder, open_encoder
from hbi_jax.tasks.inference import Paths, several
from hbi_jax.types import Encoded


class TokenSet(NamedTuple):
    """The tokens of items at one level.

    Attributes:
      features: The tokens, not normalised.
      mask: True at real tokens.
      weights: The weight of each token in the similarity; 0 at padding, and a sum of 1.
    """

    features: Float[np.ndarray, "n k d"]
    mask: Bool[np.ndarray, "n k"]
    weights: Float[np.ndarray, "n k"]


class Encodings(NamedTuple):
    """Encoded texts or videos, as numpy arrays.

    Attributes:
      names: The texts, or the paths of the videos that could be read; row `i` of every array belongs to `names[i]`.
      levels: The tokens of each level that the evaluation uses, and of the finest one, from fine to coarse.
      pooled: The sentence vectors, or the mean frames; not normalised.
      errors: The reasons why other videos could not be read, by path.
    """

    names: tuple[str, ...]
    levels: Mapping[str, TokenSet]
    pooled: Float[np.ndarray, "n d"]
    errors: Mapping[str, str]


def encode_texts(checkpoint: str | os.PathLike[str] | Encoder, texts: str | Sequence[str]) -> Encodings:
    """Encodes texts.

    Args:
      checkpoint: A retrieval run, converted weights of an HBI or a CLIP, or an `Encoder` that `open_encoder` returned.
      texts: One or several. A text that is too long for the model is cut, with a warning.

    Raises:
      ValueError: If there is no text, or one is empty.
      CheckpointError, PretrainedError: If the checkpoint cannot be opened.
    """
    encoder = checkpoint if isinstance(checkpoint, Encoder) else open_encoder(checkpoint)
    texts = [texts] if isinstance(texts, str) else list(texts)
    return _encodings(tuple(texts), encoder.texts(texts), {})


def encode_videos(checkpoint: str | os.PathLike[str] | Encoder, videos: Paths) -> Encodings:
    """Encodes videos, each as one clip whose frames are sampled as in evaluation.

    Args:
      checkpoint: As for `encode_texts`.
      videos: One or several files. Unreadable ones are left out and named.

    Raises:
      ValueError: If there is no video, or none could be read.
      CheckpointError, PretrainedError: If the checkpoint cannot be opened.
    """
    encoder = checkpoint if isinstance(checkpoint, Encoder) else open_encoder(checkpoint)
    paths = [os.fspath(video) for video in several(videos)]
    if not paths:
        raise ValueError("videos: got none, wanted at least one; name some")
    names, errors, waiting, parts = [], {}, [], []
    for path in paths:
        try:
            waiting.append(read_clips(path, encoder.clips, [(None, None)])[0])
            names.append(path)
        except VideoError as error:
            errors[path] = str(error)
        if len(waiting) == BATCH:
            parts.append(_encode(encoder, waiting))
            waiting = []
    if waiting:
        parts.append(_encode(encoder, waiting))
    if not parts:
        raise ValueError(f"videos: got none that can be read, wanted at least one; {'; '.join(errors.values())}")
    return _encodings(tuple(names), _joined(parts), errors)


def _encode(encoder: Encoder, clips: Sequence[Clips]) -> Encoded:
    frames, mask = (np.concatenate([getattr(each, name) for each in clips]) for name in ("frames", "mask"))
    return encoder.encode_clips(frames, mask)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _encodings(names: tuple[str, ...], encoded: Encoded, errors: Mapping[str, str]) -> Encodings:
    levels = {
        name: TokenSet(tokens.features, tokens.mask, scan.side(tokens).weight)
        for name, tokens in encoded.levels.items()
    }
    return Encodings(names, levels, encoded.pooled, errors)
