"""The games of matched pairs of a gallery: every word with every frame, at any level."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from hbi_jax import banzhaf
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.tasks.gallery import Gallery, equal_blocks
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator
from hbi_jax.types import Match

INTERACTION, SIMILARITY, HEADER = "interaction", "similarity", "prediction header"

# Estimates the interactions of matched pairs, `[b, t, v]`, the first of which has this number.
Estimate = Callable[[Match, int], Float[np.ndarray, "b t v"]]


class Game(NamedTuple):
    """The game of a caption and its video at one level.

    A token and a frame have the value of the merged tokens that they are part of.

    Attributes:
      record_index: The index of the caption among the records of its split.
      tokens: The caption's tokens, without start and end, which refer to nothing in the frames.
      values: For every token and frame: the exact interaction, the cosine, what the header predicts, and estimates of
        the interaction, by name.
      token_group, frame_group: The merged token of the level that each token and frame is part of.
    """

    record_index: int
    tokens: Sequence[str]
    values: Mapping[str, Float[np.ndarray, "t f"]]
    token_group: Int[np.ndarray, " t"]
    frame_group: Int[np.ndarray, " f"]


def play(
    evaluator: RetrievalEvaluator,
    params: PyTree,
    gallery: Gallery,
    rows: Int[np.ndarray, " n"],
    level: str,
    source: Source,
    tokenizer: Tokenizer,
    estimates: Mapping[str, Estimate] | None = None,
) -> list[Game]:
    """Returns the games of some texts of a gallery with their videos.

    Args:
      evaluator: The evaluator that encoded the gallery.
      params: The variables that the gallery was encoded with.
      gallery: The gallery; its model tells the members of merged tokens.
      rows: The texts, by their rows in the gallery.
      level: The name of a level.
      source: The split that the gallery was encoded from.
      tokenizer: The tokenizer of the captions.
      estimates: Estimates of the interaction by name, which are played as well.
    """
    if not len(rows):
        return []

    def values_of(places: Int[np.ndarray, " n"]) -> dict[str, Float[np.ndarray, "n t v"]]:
        match = evaluator.match(params, gallery, rows[places], level)
        sides = match.text.logits, match.video.logits, match.text.mask, match.video.mask
        return {
            INTERACTION: np.asarray(banzhaf.interaction(*map(jnp.asarray, (match.pair_similarity, *sides)))),
            SIMILARITY: match.pair_similarity,
            HEADER: match.pair_prediction,
            **{name: estimate(match, int(places[0])) for name, estimate in (estimates or {}).items()},
        }

    # Blocks of one size: games are compiled once for galleries of any size.
    blocks = equal_blocks(len(rows), evaluator.encoder.batch_size)
    parts = [values_of(places) for places in blocks]
    values = {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
    token_groups = gallery.text.members[level][rows]
    frame_groups = gallery.video.members[level][gallery.text_to_video[rows]]
    games, record_index = [], gallery.record_index[rows]
    for place, (token_ids, real) in enumerate(zip(*source.text_rows(record_index), strict=True)):
        tokens = [tokenizer.decode([token]) for token in token_ids[real][1:-1].tolist()]
        groups = token_groups[place, 1 : 1 + len(tokens)], frame_groups[place][frame_groups[place] >= 0]
        cells = np.ix_(*groups)
        expanded = {name: grid[place][cells] for name, grid in values.items()}
        games.append(Game(int(record_index[place]), tokens, expanded, *groups))
    return games
