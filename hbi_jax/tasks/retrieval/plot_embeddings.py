"""The paper's picture of tokens as points (HBI V2, Fig. 10): words and frames of matched pairs, in panels."""

import os
import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hbi_jax.tasks.retrieval.projection import Embedded, project

# In inches.
_PANEL, _TOP, _BOTTOM = 4.2, 0.75, 0.45
_COLOURS = matplotlib.colormaps["tab20"].colors


def embeddings_figure(stages: Sequence[Embedded], title: str) -> Figure:
    """Draws one panel for each set of tokens: words as circles, frames as triangles, each pair in a colour of its own.

    Distances of different panels cannot be compared, nor those between far groups of one panel.

    Args:
      stages: The sets, such as the tokens before and after training, or of two models, of the same pairs.
      title: The title.

    Raises:
      ValueError: If there is no set, or they do not have the same number of pairs, 1 to 20.
    """
    counts = {len(side) for stage in stages for side in (stage.words, stage.frames)}
    if len(counts) != 1 or not 1 <= max(counts) <= len(_COLOURS):
        raise ValueError(
            f"stages: got sets of {sorted(counts)} pairs, wanted one number of pairs in all, 1 to {len(_COLOURS)}"
        )
    width, height = max(_PANEL * len(stages), 1.5 * _PANEL), _PANEL + _TOP + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    left = (width - _PANEL * len(stages)) / 2
    for place, stage in enumerate(stages):
        box = left + _PANEL * place + 0.1, _BOTTOM, _PANEL - 0.2, _PANEL
        axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height), label=stage.name)
        axes.set_title(stage.name, fontsize=10, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        for colour, words, frames in zip(_COLOURS, *project(stage), strict=False):
            axes.scatter(*words.T, s=18, marker="o", facecolors="none", edgecolors=[colour], linewidths=1.2)
            axes.scatter(*frames.T, s=26, marker="^", color=[colour])
    signs = [
        Line2D([], [], linestyle="", marker="o", markerfacecolor="none", color="0.3", label="word"),
        Line2D([], [], linestyle="", marker="^", color="0.3", label="frame"),
    ]
    figure.legend(handles=signs, loc="lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top", parse_math=False)
    return figure


def plot_embeddings(stages: Sequence[Embedded], out_path: str | os.PathLike[str], title: str) -> None:
    """Saves `embeddings_figure` to a file. The suffix sets the format (.png, .svg, .pdf).

    Args:
      stages, title: As for `embeddings_figure`.
      out_path: The file; its folder is created if needed.
    """
    path = pathlib.Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    embeddings_figure(stages, title).savefig(path)
