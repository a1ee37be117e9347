"""Strips of frames: videos below each other, each with its frames side by side between lines of text."""

import os
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from hbi_jax.report.strips import Strip

# In inches.
WIDTH, HEIGHT, LINE, GAP, CHARACTER = 9.6, 1.3, 0.24, 0.2, 0.088


def strips_figure(strips: Sequence[Strip]) -> Figure:
    """Draws strips below each other.

    Args:
      strips: The strips, from top to bottom.

    Raises:
      ValueError: If there is no strip.
    """
    if not strips:
        raise ValueError("there are 0 examples, wanted at least 1; apply the model to some videos before drawing them.")
    characters = int(WIDTH / CHARACTER)
    titles = [textwrap.wrap(strip.title, characters) or [""] for strip in strips]
    images = [_side_by_side(strip.frames) for strip in strips]
    # A row of frames fills the width, but a few frames are not enlarged beyond HEIGHT.
    heights = [min(HEIGHT, WIDTH * image.shape[0] / image.shape[1]) for image in images]
    texts = sum(len(title) + len(strip.lines) for title, strip in zip(titles, strips, strict=True))
    total = sum(heights) + LINE * texts + GAP * (len(strips) + 1)
    figure = Figure(figsize=(WIDTH + 2 * GAP, total), dpi=110, facecolor="white")
    left = GAP / figure.get_figwidth()
    # Texts may contain dollar signs, which must not be parsed as mathematics.
    style = {"x": left, "va": "top", "fontsize": 10, "parse_math": False}
    y = total - GAP
    for strip, title, image, height in zip(strips, titles, images, heights, strict=True):
        figure.text(y=y / total, s="\n".join(title), weight="bold", **style)
        y -= LINE * len(title) + height
        width = height * image.shape[1] / image.shape[0]
        axes = figure.add_axes((left, y / total, width / figure.get_figwidth(), height / total), label="frames")
        axes.imshow(image, aspect="auto")
        axes.set_axis_off()
        for text, colour in strip.lines:
            text = textwrap.shorten(text, characters, placeholder=" ...")
            figure.text(y=(y - 0.04) / total, s=text, color=colour, **style)
            y -= LINE
        y -= GAP
    return figure


def plot_strips(strips: Sequence[Strip], path: str | os.PathLike[str]) -> None:
    """Saves `strips_figure` to a file.

    Args:
      strips: The strips, from top to bottom.
      path: The picture; its folder is created if needed. The suffix sets the format.

    Raises:
      ValueError: If there is no strip.
    """
    figure = strips_figure(strips)
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def _side_by_side(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "h w2 3"]:
    """Joins the frames in a row, with white gaps between them."""
    gap = max(1, frames.shape[2] // 24)
    apart = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(apart), axis=1)[:, :-gap]
