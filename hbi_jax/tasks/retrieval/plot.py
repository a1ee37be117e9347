"""The paper's picture of an interaction: the frames of a video above a heat map of words by frames."""

import os
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# In inches. The figure is laid out cell by cell, so that the frames line up with the columns of the heat map.
COLUMN_MIN, COLUMN_MAX, PICTURE_WIDTH = 0.45, 1.3, 9.6
ROW_HEIGHT, CHARACTER, TITLE_LINE = 0.27, 0.085, 0.24
MARGIN, COLORBAR, OUTLINE_INSET = 0.15, 1.1, 0.018


def interaction_figure(
    frames: UInt8[np.ndarray, "f h w 3"],
    words: Sequence[str],
    interaction: Float[np.ndarray, "t f"],
    title: str,
    truth: Bool[np.ndarray, "t f"] | None = None,
) -> Figure:
    """Draws the frames in a row and, below them, a heat map of the interaction of each word with each frame.

    Red cells are positive (the pair is worth more than its parts), blue cells negative, white cells zero. The scale is
    symmetric and ends at the greatest magnitude.

    Args:
      frames: The sampled frames, in order.
      words: One label per row of `interaction`.
      interaction: The interaction of every word with every frame, without padding.
      title: The title; long titles are wrapped.
      truth: True where the word's object is in the frame; these cells are outlined.

    Returns:
      A figure with the axes `frames` and `interaction` and a colour bar. The pyplot state is unchanged.

    Raises:
      ValueError: If there is no word or no frame, the counts differ, or the interaction is not finite.
    """
    _check(frames, words, interaction, truth)
    num_words, num_frames = interaction.shape
    column = float(np.clip(PICTURE_WIDTH / num_frames, COLUMN_MIN, COLUMN_MAX))
    frame_height = column * frames.shape[1] / frames.shape[2]
    left = MARGIN + 0.1 + CHARACTER * max(4, *(len(word) for word in words))
    grid_width, grid_height = column * num_frames, ROW_HEIGHT * num_words
    width = left + grid_width + COLORBAR
    lines = textwrap.wrap(title, max(20, int((width - left - MARGIN) / CHARACTER)))
    top = MARGIN + TITLE_LINE * len(lines)
    bottom = 0.42 + (0.22 if truth is not None else 0.0)
    gap = 0.06
    height = top + frame_height + gap + grid_height + bottom
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")

    def axes(label: str, x: float, y: float, w: float, h: float):
        """Adds axes at a position in inches from the lower left corner."""
        return figure.add_axes((x / width, y / height, w / width, h / height), label=label)

    top_axes = axes("frames", left, bottom + grid_height + gap, grid_width, frame_height)
    heat_axes = axes("interaction", left, bottom, grid_width, grid_height)
    bar_axes = axes("colorbar", left + grid_width + 0.12, bottom, 0.14, grid_height)
    draw_frames(top_axes, frames)
    limit = float(np.abs(interaction).max()) or 1.0
    image = heat_axes.imshow(
        interaction, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    heat_axes.set_xticks(range(num_frames), [str(frame + 1) for frame in range(num_frames)], fontsize=8)
    # Captions may contain dollar signs, which must not be parsed as mathematics.
    heat_axes.set_yticks(range(num_words), words, fontsize=9, parse_math=False)
    heat_axes.set_xlabel("frame", fontsize=9, labelpad=1)
    heat_axes.tick_params(length=0, pad=3)
    heat_axes.set_xticks(np.arange(num_frames - 1) + 0.5, minor=True)
    heat_axes.set_yticks(np.arange(num_words - 1) + 0.5, minor=True)
    heat_axes.grid(which="minor", color="0.88", linewidth=0.6)
    heat_axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, cax=bar_axes)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("interaction", fontsize=9)
    if truth is not None:
        _outline(heat_axes, truth, OUTLINE_INSET / column, OUTLINE_INSET / ROW_HEIGHT)
        note = "outlined: the word is in the frame (ground truth)"
        figure.text(left / width, 0.09 / height, note, fontsize=8, color="0.25", va="bottom")
    figure.text(left / width, 1 - MARGIN / height, "\n".join(lines), fontsize=11, va="top", parse_math=False)
    return figure


def plot_interaction(
    frames: UInt8[np.ndarray, "f h w 3"],
    words: Sequence[str],
    interaction: Float[np.ndarray, "t f"],
    out_path: str | os.PathLike[str],
    title: str,
    truth: Bool[np.ndarray, "t f"] | None = None,
) -> None:
    """Saves `interaction_figure` to a file. The suffix sets the format (.png, .svg, .pdf).

    Args:
      frames: The sampled frames, in order.
      words: One label per row of `interaction`.
      interaction: The interaction of every word with every frame, without padding.
      out_path: The file; its folder is created if needed.
      title: The title.
      truth: True where the word's object is in the frame.

    Raises:
      ValueError: For the same reasons as `interaction_figure`.
    """
    figure = interaction_figure(frames, words, interaction, title, truth)
    path = pathlib.Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_frames(axes, frames: np.ndarray) -> None:
    """Draws the frames side by side, one unit wide each, at the centres of the columns."""
    for place, frame in enumerate(frames):
        axes.imshow(frame, extent=(place - 0.47, place + 0.47, 0.03, 0.97), aspect="auto")
    axes.set_xlim(-0.5, len(frames) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_axis_off()


def _outline(axes, truth: np.ndarray, inset_x: float, inset_y: float) -> None:
    """Draws a black outline with a white rim around every run of True cells of a row.

    The rim keeps the outline visible on any colour. The insets, in cells, keep the outlines of adjacent rows apart.
    """
    rim = [patheffects.withStroke(linewidth=2.6, foreground="white")]
    for row, cells in enumerate(truth):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(int)))
        for start, end in edges.reshape(-1, 2):
            corner = (start - 0.5 + inset_x, row - 0.5 + inset_y)
            outline = Rectangle(corner, end - start - 2 * inset_x, 1 - 2 * inset_y, zorder=3)
            outline.set(fill=False, edgecolor="black", linewidth=1.3, path_effects=rim)
            axes.add_patch(outline)


def _check(frames: np.ndarray, words: Sequence[str], interaction: np.ndarray, truth: np.ndarray | None) -> None:
    """Raises if the shapes disagree or the interaction is not finite."""
    num_words, num_frames = interaction.shape
    if not num_words or not num_frames:
        raise ValueError(
            f"interaction has {num_words} words and {num_frames} frames, wanted at least one of each; "
            "pass the real tokens of one video and its text."
        )
    if len(words) != num_words or len(frames) != num_frames:
        raise ValueError(
            f"interaction is {num_words} words x {num_frames} frames, but there are {len(words)} words and "
            f"{len(frames)} frames; leave padding out of all of them."
        )
    if truth is not None and truth.shape != interaction.shape:
        raise ValueError(
            f"truth has shape {truth.shape}, wanted that of interaction, {interaction.shape}; give one row per "
            "word and one column per frame."
        )
    if not np.isfinite(interaction).all():
        raise ValueError(
            f"interaction holds {int((~np.isfinite(interaction)).sum())} values that are not finite, wanted "
            "numbers; leave padding out and check the checkpoint."
        )
