"""Games of words with the patches of a frame: where in the picture a word points."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree, UInt8

from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.report.report import Table
from hbi_jax.tasks.gallery import Gallery
from hbi_jax.tasks.retrieval import pointing
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator
from hbi_jax.tasks.retrieval.games import INTERACTION, SIMILARITY, Game, play
from hbi_jax.tasks.retrieval.regions import Region, Regions


class PatchGame(NamedTuple):
    """The game of a caption and the patches of one frame of its video.

    Attributes:
      game: The game; its "frames" are the patches, row by row.
      frame: The frame, RGB in 0..255.
      region: The object of an event in the frame.
    """

    game: Game
    frame: UInt8[np.ndarray, "h w 3"]
    region: Region


def play_patches(
    evaluator: RetrievalEvaluator,
    params: PyTree,
    gallery: Gallery,
    rows: Int[np.ndarray, " n"],
    regions: Regions,
    level: str,
    source: Source,
    tokenizer: Tokenizer,
) -> list[PatchGame]:
    """Returns the games of some texts of a gallery with the frames of their regions, one for each region.

    Args:
      evaluator, params, gallery, level, source, tokenizer: As for `games.play`; the source reads pixels.
      rows: The texts, by their rows in the gallery.
      regions: The regions; a text without any plays no game.
    """
    texts, asked = [], []
    for row in rows.tolist():
        record = source.split.records[gallery.record_index[row]]
        for region in regions.get((record.video_id, record.text), ()):
            texts.append(row)
            asked.append(region)
    if not asked:
        return []
    record_index, places = gallery.record_index[texts], np.arange(len(asked))
    # A video with several regions is decoded once.
    videos, clip_of = np.unique(source.split.video_index[record_index], return_inverse=True)
    clips, _, _ = source.video_rows(videos)
    frames = clips[clip_of, [region.frame for region in asked]]
    # A frame plays like a video whose frames are its patches.
    pictures = Gallery(
        text=jax.tree.map(itemgetter(texts), gallery.text),
        video=evaluator.patches(params, frames),
        text_to_video=places,
        record_index=record_index,
        groups=None,
    )
    games = play(evaluator, params, pictures, places, level, source, tokenizer)
    return [PatchGame(*each) for each in zip(games, frames, asked, strict=True)]


def tables(name: str, games: Sequence[PatchGame], source: Source) -> list[Table]:
    """Returns a table of where words point in the frames of games, by interaction and by similarity.

    Args:
      name: The heading.
      games: The games.
      source: The split of their captions.
    """
    found: dict[str, list[pointing.Pointed]] = {}
    for game, _, region in games:
        video = int(source.split.video_index[game.record_index])
        for method in (INTERACTION, SIMILARITY):
            values = game.values[method]
            pointed = pointing.point(values, game.tokens, region.of_patches(values.shape[1]), video)
            found.setdefault(method, []).extend(pointed)
    return pointing.tables(name, found, players="patches") if found else []
