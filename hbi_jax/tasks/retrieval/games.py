"""The games of matched pairs of a gallery: every word with every frame."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from hbi_jax import banzhaf
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.tasks.gallery import Gallery
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator

INTERACTION, SIMILARITY, HEADER = "interaction", "similarity", "prediction header"


class Game(NamedTuple):
    """The game of a caption and its video.

    Attributes:
      record_index: The index of the caption among the records of its split.
      tokens: The caption's tokens, without start and end, which are players but refer to nothing in the frames.
      values: For every token and frame: the exact interaction, the cosine, and what the header predicts, by name.
    """

    record_index: int
    tokens: Sequence[str]
    values: Mapping[str, Float[np.ndarray, "t f"]]


def play(
    evaluator: RetrievalEvaluator,
    params: PyTree,
    gallery: Gallery,
    rows: Int[np.ndarray, " n"],
    level: str,
    source: Source,
    tokenizer: Tokenizer,
) -> list[Game]:
    """Returns the games of some texts of a gallery with their videos.

    Args:
      evaluator: The evaluator that encoded the gallery.
      params: The variables that the gallery was encoded with.
      gallery: The gallery.
      rows: The texts, by their rows in the gallery.
      level: The name of a level without merged tokens.
      source: The split that the gallery was encoded from.
      tokenizer: The tokenizer of the captions.
    """
    if not len(rows):
        return []
    match = evaluator.match(params, gallery, rows, level)
    sides = match.text.logits, match.video.logits, match.text.mask, match.video.mask
    values = {
        INTERACTION: np.asarray(banzhaf.interaction(*map(jnp.asarray, (match.pair_similarity, *sides)))),
        SIMILARITY: match.pair_similarity,
        HEADER: match.pair_prediction,
    }
    games, record_index = [], gallery.record_index[rows]
    for place, (token_ids, real) in enumerate(zip(*source.text_rows(record_index), strict=True)):
        tokens = [tokenizer.decode([token]) for token in token_ids[real][1:-1].tolist()]
        cells = np.s_[place, 1 : 1 + len(tokens), : match.video.mask[place].sum()]
        games.append(Game(int(record_index[place]), tokens, {name: grid[cells] for name, grid in values.items()}))
    return games
