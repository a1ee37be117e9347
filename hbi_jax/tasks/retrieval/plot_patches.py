"""A picture of where in a frame words point: heat maps of their interaction with its patches, over the frame."""

import math
import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# In inches.
_PANEL, _GAP, _LABEL, _MARGIN, _LINE = 1.2, 0.1, 0.24, 0.15, 0.24
# Share of the frame that the strongest colour hides; the frame is grey, so that all colours are the interaction's.
_OPACITY = 0.85
_LUMA = (0.299, 0.587, 0.114)


class PatchGrid(NamedTuple):
    """The interaction of some words with the patches of a frame.

    Attributes:
      frame: RGB in 0..255.
      words: The words.
      interaction: The interaction of every word with every patch, row by row.
      box: The object that the words refer to: x0, y0, x1, y1 as fractions of the frame's sides, from the top left
        corner; None: not known.
    """

    frame: UInt8[np.ndarray, "h w 3"]
    words: Sequence[str]
    interaction: Float[np.ndarray, "t n"]
    box: Float[np.ndarray, "4"] | None = None


def patches_figure(grids: Sequence[PatchGrid], title: str) -> Figure:
    """Draws a row of panels for each frame: the frame, then the interaction of each word with its patches.

    Red patches are positive and blue ones negative; where the interaction is zero, the frame shines through in grey.
    Every panel has its own symmetric scale, which ends at the greatest magnitude; the number below the panel says it.

    Args:
      grids: The frames with their words, of the same number of patches.
      title: The title; long titles are wrapped.

    Raises:
      ValueError: If there is no frame or no word, the patches form no square, the counts differ, or the interaction is
        not finite.
    """
    if not grids:
        raise ValueError("grids: got none, wanted at least one; give a frame with its words.")
    for grid in grids:
        _check(grid)
    columns = 1 + max(len(grid.words) for grid in grids)
    width = 2 * _MARGIN + columns * _PANEL + (columns - 1) * _GAP
    lines = textwrap.wrap(title, max(20, int(width / 0.085)))
    top, row_height = _MARGIN + _LINE * len(lines), 2 * _LABEL + _PANEL
    height = top + row_height * len(grids) + _MARGIN
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")

    def axes(label: str, x: float, y: float, w: float, h: float):
        """Adds axes at a position in inches from the upper left corner."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height), label=label)

    for number, grid in enumerate(grids):
        y = top + row_height * number + _LABEL
        panels = [("frame", None), *zip(grid.words, grid.interaction, strict=True)]
        for column, (word, values) in enumerate(panels):
            panel = axes(f"{number} {column}", _MARGIN + column * (_PANEL + _GAP), y, _PANEL, _PANEL)
            # Captions may contain dollar signs, which must not be parsed as mathematics.
            panel.set_title(word, fontsize=9, pad=3, parse_math=False)
            _draw_panel(panel, grid, values)
    figure.text(_MARGIN / width, 1 - _MARGIN / height, "\n".join(lines), fontsize=11, va="top", parse_math=False)
    return figure


def plot_patches(grids: Sequence[PatchGrid], out_path: str | os.PathLike[str], title: str) -> None:
    """Saves `patches_figure` to a file. The suffix sets the format (.png, .svg, .pdf).

    Args:
      grids, title: As for `patches_figure`.
      out_path: The file; its folder is created if needed.

    Raises:
      ValueError: For the same reasons as `patches_figure`.
    """
    figure = patches_figure(grids, title)
    path = pathlib.Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_panel(axes, grid: PatchGrid, values: np.ndarray | None) -> None:
    """Draws the frame, or the values of its patches over it, with the box."""
    height, width = grid.frame.shape[:2]
    extent = (0, 1, 1, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    if values is None:
        axes.imshow(grid.frame, extent=extent)
    else:
        axes.imshow(grid.frame @ np.array(_LUMA), cmap="gray", vmin=0, vmax=255, extent=extent)
        side, limit = math.isqrt(len(values)), float(np.abs(values).max()) or 1.0
        cells = values.reshape(side, side)
        opacity = _OPACITY * np.abs(cells) / limit
        axes.imshow(cells, cmap="bwr", vmin=-limit, vmax=limit, extent=extent, interpolation="nearest", alpha=opacity)
        axes.set_xlabel(f"± {limit:.2g}", fontsize=7, labelpad=2)
    axes.set_aspect(height / width)
    if grid.box is not None:
        x0, y0, x1, y1 = grid.box
        outline = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="black", linewidth=1.2)
        outline.set_path_effects([patheffects.withStroke(linewidth=2.6, foreground="white")])
        axes.add_patch(outline)


def _check(grid: PatchGrid) -> None:
    """Raises if the shapes disagree or the interaction is not finite."""
    num_words, num_patches = grid.interaction.shape
    if not num_words or len(grid.words) != num_words:
        raise ValueError(
            f"interaction has {num_words} rows, and there are {len(grid.words)} words, wanted a row for each of at "
            "least one word; give the words that the rows belong to."
        )
    side = math.isqrt(num_patches)
    if not num_patches or side * side != num_patches:
        raise ValueError(
            f"interaction has {num_patches} patches, wanted a square number; give all patches of a square frame, "
            "without the class token."
        )
    if not np.isfinite(grid.interaction).all():
        raise ValueError(
            f"interaction holds {int((~np.isfinite(grid.interaction)).sum())} values that are not finite, wanted "
            "numbers; check the checkpoint."
        )
