"""Pictures of matched pairs of a gallery: interactions of words with frames and patches, and tokens as points."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from hbi_jax.data.source import Source
from hbi_jax.report.report import Picture
from hbi_jax.tasks.retrieval.games import INTERACTION, Game
from hbi_jax.tasks.retrieval.patches import PatchGame
from hbi_jax.tasks.retrieval.plot import plot_interaction
from hbi_jax.tasks.retrieval.plot_embeddings import plot_embeddings
from hbi_jax.tasks.retrieval.plot_levels import LevelGrid, plot_levels
from hbi_jax.tasks.retrieval.plot_patches import PatchGrid, plot_patches
from hbi_jax.tasks.retrieval.pointing import Truths, by_word
from hbi_jax.tasks.retrieval.projection import Embedded

# Bytes of the name of a picture, without its number and extension.
_LONGEST_NAME = 200


def draw_interactions(
    games: Mapping[str, Sequence[Game]], source: Source, folder: str | os.PathLike[str], truths: Truths
) -> list[Picture]:
    """Draws the interactions of matched pairs: those of the finest level, and those of all levels if there are several.

    Args:
      games: The pairs at every level, from fine to coarse.
      source: The split that holds them.
      folder: The folder of the pictures.
      truths: The ground truth, which is outlined in the pictures of the finest level.
    """
    pictures = []
    for played in zip(*games.values(), strict=True):
        finest = played[0]
        record = source.split.records[finest.record_index]
        clip, frame_mask, _ = source.video_rows(source.split.video_index[[finest.record_index]])
        frames, truth = clip[frame_mask], truths.get((record.video_id, record.text))
        path = _file(folder, f"interaction_{record.video_id}", pictures)
        outlined = None if truth is None else truth.of_tokens(finest.tokens)
        plot_interaction(frames, finest.tokens, finest.values[INTERACTION], path, record.text, outlined)
        what = f"video {record.video_id}: {record.text}"
        pictures.append(Picture(str(path), f"Interaction of words and frames, {what}"))
        if len(played) > 1:
            path = _file(folder, f"levels_{record.video_id}", pictures)
            plot_levels(frames, [_grid(*level) for level in zip(games, played, strict=True)], path, record.text)
            pictures.append(Picture(str(path), f"Interaction of groups of words and frames at every level, {what}"))
    return pictures


def draw_patches(games: Sequence[PatchGame], source: Source, folder: str | os.PathLike[str]) -> list[Picture]:
    """Draws where in their frames the words of captions point: a picture for each video, with a row for each frame.

    Args:
      games: The games.
      source: The split that holds the captions.
      folder: The folder of the pictures.
    """
    rows: dict[int, list[PatchGrid]] = {}
    for game, frame, region in games:
        values = by_word(game.values[INTERACTION], game.tokens, region.words)
        numbers = [number for number in values if region.roles[number]]
        if numbers:
            words = [region.words[number] for number in numbers]
            grid = PatchGrid(frame, words, np.stack([values[number] for number in numbers]), region.box)
            rows.setdefault(game.record_index, []).append(grid)
    pictures = []
    for record_index, drawn in rows.items():
        record = source.split.records[record_index]
        path = _file(folder, f"patches_{record.video_id}", pictures)
        plot_patches(drawn, path, record.text)
        what = f"Interaction of words with the patches of a frame, video {record.video_id}: {record.text}"
        pictures.append(Picture(str(path), what))
    return pictures


def draw_embeddings(stages: Sequence[Embedded], level: str, folder: str | os.PathLike[str]) -> list[Picture]:
    """Draws the words and frames of matched pairs as points, with one panel for each of the stages.

    Args:
      stages: Tokens of the same pairs, such as those before and after training.
      level: The level of the tokens.
      folder: The folder of the picture.
    """
    what = f"Words and frames of {len(stages[0].words)} matched pairs, {level} level"
    path = pathlib.Path(folder) / "embeddings.png"
    plot_embeddings(stages, path, what)
    return [Picture(str(path), f"{what}, projected by t-SNE: {'; '.join(stage.name for stage in stages)}")]


def _file(folder: str | os.PathLike[str], name: str, pictures: Sequence[Picture]) -> pathlib.Path:
    """Returns the file of a picture that is none of `pictures`: a number tells those of one video apart."""
    # File systems limit names to 255 bytes, which an id may use up alone.
    name = os.fsencode(name)[:_LONGEST_NAME].decode(errors="ignore")
    taken = {picture.path for picture in pictures}
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    paths = (pathlib.Path(folder) / f"{name}.png" for name in names)
    return next(path for path in paths if str(path) not in taken)


def _grid(name: str, game: Game) -> LevelGrid:
    """Returns the rows of a game's groups of words, in the order of their first words."""
    groups = list(dict.fromkeys(game.token_group.tolist()))
    members = [np.flatnonzero(game.token_group == group) for group in groups]
    words = [" ".join(game.tokens[place] for place in places) for places in members]
    rows = [places[0] for places in members]
    return LevelGrid(name, words, game.values[INTERACTION][rows], game.frame_group)
