"""Pictures of matched pairs of a gallery: the frames, and the interaction of every word with every frame."""

import os
import pathlib
from collections.abc import Sequence

from hbi_jax.data.source import Source
from hbi_jax.report.report import Picture
from hbi_jax.tasks.retrieval.games import INTERACTION, Game
from hbi_jax.tasks.retrieval.plot import plot_interaction
from hbi_jax.tasks.retrieval.pointing import Truths


def draw_interactions(
    games: Sequence[Game], source: Source, folder: str | os.PathLike[str], truths: Truths
) -> list[Picture]:
    """Draws the interactions of matched pairs.

    Args:
      games: The pairs.
      source: The split that holds them.
      folder: The folder of the pictures.
      truths: The ground truth, which is outlined in the pictures.
    """
    pictures = []
    for game in games:
        record = source.split.records[game.record_index]
        clip, frame_mask, _ = source.video_rows(source.split.video_index[[game.record_index]])
        path = pathlib.Path(folder) / f"interaction_{record.video_id}.png"
        truth = truths.get((record.video_id, record.text))
        plot_interaction(
            clip[frame_mask],
            game.tokens,
            game.values[INTERACTION],
            path,
            record.text,
            None if truth is None else truth.of_tokens(game.tokens),
        )
        caption = f"Interaction of words and frames, video {record.video_id}: {record.text}"
        pictures.append(Picture(str(path), caption))
    return pictures
