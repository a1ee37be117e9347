"""Pictures of matched pairs of a gallery: the frames, and the interaction of every word with every frame."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from hbi_jax import banzhaf
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.models.similarity import pair_similarity
from hbi_jax.report.report import Picture
from hbi_jax.tasks.gallery import Gallery
from hbi_jax.tasks.retrieval.plot import plot_interaction
from hbi_jax.types import finest


class WordTruth(NamedTuple):
    """The ground truth of the words of a caption.

    Attributes:
      words: The caption's words, without punctuation.
      frames: True at the sampled frames that each word refers to.
    """

    words: Sequence[str]
    frames: Bool[np.ndarray, "w f"]


def draw_interactions(
    gallery: Gallery,
    source: Source,
    tokenizer: Tokenizer,
    count: int,
    folder: str | os.PathLike[str],
    truths: Mapping[str, WordTruth] | None = None,
) -> list[Picture]:
    """Draws matched pairs at the finest level, spread evenly over the gallery.

    Args:
      gallery: The gallery, encoded from `source`.
      source: The split.
      tokenizer: The tokenizer of the captions.
      count: The number of pictures.
      folder: The folder of the pictures.
      truths: The ground truth by video id, which is outlined in the pictures; None if there is none.
    """
    pictures, num_texts = [], len(gallery.record_index)
    for row in np.linspace(0, num_texts - 1, min(count, num_texts)).astype(int):
        record_index = gallery.record_index[row : row + 1]
        record = source.split.records[record_index[0]]
        video = gallery.text_to_video[row]
        words = jax.tree.map(lambda x: jnp.asarray(x[None, row]), finest(gallery.text.levels))  # noqa: B023
        frames = jax.tree.map(lambda x: jnp.asarray(x[None, video]), finest(gallery.video.levels))  # noqa: B023
        grid = banzhaf.interaction(pair_similarity(words, frames), words.logits, frames.logits, words.mask, frames.mask)
        token_ids, text_mask = source.text_rows(record_index)
        clip, frame_mask, _ = source.video_rows(source.split.video_index[record_index])
        # The start and end tokens are players of the game, but refer to nothing in the frames.
        tokens = [tokenizer.decode([token]) for token in token_ids[text_mask][1:-1].tolist()]
        truth = truths.get(record.video_id) if truths else None
        path = pathlib.Path(folder) / f"interaction_{record.video_id}.png"
        plot_interaction(
            clip[frame_mask],
            tokens,
            np.asarray(grid)[0, 1 : 1 + len(tokens), : frame_mask.sum()],
            path,
            record.text,
            None if truth is None else _align(tokens, truth),
        )
        caption = f"Interaction of words and frames, video {record.video_id}: {record.text}"
        pictures.append(Picture(str(path), caption))
    return pictures


def _align(tokens: Sequence[str], truth: WordTruth) -> Bool[np.ndarray, "t f"]:
    """Returns the ground truth of each token: that of the word it belongs to; all False for punctuation."""
    rows = np.zeros((len(tokens), truth.frames.shape[1]), bool)
    word, read = 0, ""
    for row, token in enumerate(tokens):
        if not any(character.isalnum() for character in token) or word == len(truth.words):
            continue
        rows[row] = truth.frames[word]
        read += token
        if len(read) >= len(truth.words[word]):
            word, read = word + 1, ""
    return rows
