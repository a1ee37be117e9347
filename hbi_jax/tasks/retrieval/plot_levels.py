"""The paper's picture of all levels (HBI V2, Fig. 11): merged words and frames drawn as the groups they are."""

import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from hbi_jax.tasks.retrieval.plot import draw_frames

# In inches.
_WIDTH, _ROW, _HEADING, _LINE = 10.5, 0.25, 0.55, 0.24
_LABEL, _COLORBAR, _MARGIN, _GAP = 2.6, 0.9, 0.15, 0.06
# Characters of a label; longer groups of words are cut.
_CHARACTERS = 34


class LevelGrid(NamedTuple):
    """The interaction of a level.

    Attributes:
      name: The level.
      words: The words of each merged text token, joined.
      interaction: The interaction of each merged text token with the merged video token that each frame is part of.
      frame_group: The merged video token that each frame is part of.
    """

    name: str
    words: Sequence[str]
    interaction: Float[np.ndarray, "t f"]
    frame_group: Int[np.ndarray, " f"]


def levels_figure(frames: UInt8[np.ndarray, "f h w 3"], levels: Sequence[LevelGrid], title: str) -> Figure:
    """Draws the frames in a row and, below them, a heat map of the interaction at each level.

    A row is a group of words. The letter below a frame names its group; lines separate neighbours of different groups.
    Red is positive and blue negative; every level has its own symmetric scale.

    Args:
      frames: The sampled frames, in order.
      levels: The levels, from fine to coarse.
      title: The title; long titles are wrapped.

    Raises:
      ValueError: If there is no level, or its interaction does not fit its words, its frame groups or the frames.
    """
    if not levels:
        raise ValueError("levels: got none, wanted at least one; give the grids of the levels to draw.")
    for level in levels:
        wanted = len(level.words), len(frames)
        if level.interaction.shape != wanted or len(level.frame_group) != len(frames):
            raise ValueError(
                f"level {level.name!r}: the interaction has shape {level.interaction.shape} and there are "
                f"{len(level.frame_group)} frame groups, wanted {wanted} and {len(frames)}; leave padding out of all."
            )
    lines = textwrap.wrap(title, 100)
    top = 2 * _MARGIN + _LINE * len(lines)
    grid = _WIDTH - _LABEL - _COLORBAR
    frame_height = grid / len(frames) * frames.shape[1] / frames.shape[2]
    height = top + frame_height + sum(_HEADING + _ROW * len(level.words) for level in levels)
    figure = Figure(figsize=(_WIDTH, height), dpi=110, facecolor="white")
    y = height - top - frame_height

    def axes(label: str, x: float, y: float, w: float, h: float):
        """Adds axes at a position in inches from the lower left corner."""
        return figure.add_axes((x / _WIDTH, y / height, w / _WIDTH, h / height), label=label)

    draw_frames(axes("frames", _LABEL, y, grid, frame_height), frames)
    for level in levels:
        h = _ROW * len(level.words)
        y -= h + (_HEADING if level is not levels[0] else _GAP)
        heat = axes(level.name, _LABEL, y, grid, h)
        _draw_level(heat, level)
        bar = figure.colorbar(heat.get_images()[0], cax=axes(f"colorbar {level.name}", _LABEL + grid + 0.1, y, 0.12, h))
        bar.ax.tick_params(labelsize=7)
        bar.ax.locator_params(nbins=3)
        label = f"{level.name} level"
        figure.text(_MARGIN / _WIDTH, (y + h + 0.05) / height, label, fontsize=9, weight="bold", va="bottom")
    figure.text(_MARGIN / _WIDTH, 1 - _MARGIN / height, "\n".join(lines), fontsize=11, va="top", parse_math=False)
    return figure


def plot_levels(
    frames: UInt8[np.ndarray, "f h w 3"], levels: Sequence[LevelGrid], out_path: str | os.PathLike[str], title: str
) -> None:
    """Saves `levels_figure` to a file. The suffix sets the format (.png, .svg, .pdf).

    Args:
      frames, levels, title: As for `levels_figure`.
      out_path: The file; its folder is created if needed.
    """
    figure = levels_figure(frames, levels, title)
    path = pathlib.Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_level(axes, level: LevelGrid) -> None:
    """Draws the heat map of a level, with the words of each group beside it and the group of each frame below it."""
    limit = float(np.abs(level.interaction).max()) or 1.0
    axes.imshow(level.interaction, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    # Letters in the order in which the groups first appear.
    order = list(dict.fromkeys(level.frame_group.tolist()))
    if len(order) < len(level.frame_group):
        letters = [_letters(order.index(group)) for group in level.frame_group.tolist()]
    else:
        letters = [str(frame + 1) for frame in range(len(order))]
    axes.set_xticks(range(len(letters)), letters, fontsize=8)
    labels = [textwrap.shorten(words, _CHARACTERS, placeholder=" ...") for words in level.words]
    # Captions may contain dollar signs, which must not be parsed as mathematics.
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5, parse_math=False)
    axes.tick_params(length=0, pad=3)
    for border in np.flatnonzero(np.diff(level.frame_group)):
        axes.axvline(border + 0.5, color="0.35", linewidth=0.8)
    for border in range(1, len(labels)):
        axes.axhline(border - 0.5, color="0.88", linewidth=0.6)


def _letters(number: int) -> str:
    """Returns A to Z for 0 to 25, then AA, AB and so on."""
    letters = chr(ord("A") + number % 26)
    return letters if number < 26 else _letters(number // 26 - 1) + letters
