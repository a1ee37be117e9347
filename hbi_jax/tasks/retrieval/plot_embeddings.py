"""The paper's picture of tokens as points (HBI V2, Fig. 10): words and frames of matched pairs, projected by t-SNE."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# In inches.
_PANEL, _TOP, _BOTTOM = 4.2, 0.75, 0.45
_COLOURS = matplotlib.colormaps["tab20"].colors
# Of t-SNE: the number of neighbours that a point is kept close to, if there are enough points.
_PERPLEXITY = 30


class Embedded(NamedTuple):
    """The tokens of some matched pairs; row `i` of both sides belongs together.

    Attributes:
      name: What the tokens are, such as `before training`.
      words, frames: The tokens of both sides.
      word_mask, frame_mask: True at real tokens.
    """

    name: str
    words: Float[np.ndarray, "n t d"]
    word_mask: Bool[np.ndarray, "n t"]
    frames: Float[np.ndarray, "n v d"]
    frame_mask: Bool[np.ndarray, "n v"]


def project(embedded: Embedded) -> tuple[list[Float[np.ndarray, "w 2"]], list[Float[np.ndarray, "f 2"]]]:
    """Returns the real words and the real frames of each pair as points in the plane, by t-SNE of their cosines.

    All tokens are projected together, so that near points are similar tokens, of whatever side and pair. The result is
    a function of the tokens only. Tokens that do not differ, and fewer than three, are all at the origin.
    """
    # Importing it takes a second.
    from sklearn.manifold import TSNE

    sides = (embedded.words, embedded.word_mask), (embedded.frames, embedded.frame_mask)
    parts = [
        tokens[mask].astype(np.float32)
        for all_tokens, masks in sides
        for tokens, mask in zip(all_tokens, masks, strict=True)
    ]
    # A model that has diverged still gets its report.
    points = np.nan_to_num(np.concatenate(parts), posinf=0, neginf=0)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    plane = np.zeros((len(points), 2), np.float32)
    # Of equal points, the library would divide by their spread and end the process.
    if len(points) >= 3 and np.ptp(points, axis=0).max() > 1e-6:
        perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
        # The approximate method is for many points; of few, its threads take most of the time waiting for one another.
        tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0, method="exact")
        plane = tsne.fit_transform(points)
    found = np.split(plane, np.cumsum([len(part) for part in parts])[:-1])
    return found[: len(embedded.words)], found[len(embedded.words) :]


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
