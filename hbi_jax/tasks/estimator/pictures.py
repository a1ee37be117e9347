"""Plots of estimated against exact interactions, one panel per level and method."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure


def plot_estimates(
    levels: Sequence[str],
    exact: Sequence[Float[np.ndarray, "..."]],
    estimates: Mapping[str, Sequence[Float[np.ndarray, "..."]]],
    cells: Sequence[Bool[np.ndarray, "..."]],
    path: str | os.PathLike[str],
) -> None:
    """Draws a 2-D histogram of exact and estimated interactions of real cells; perfect estimates lie on the diagonal.

    Args:
      levels: The names of the levels; each has a column of panels.
      exact: The exact interactions of each level, `[n, t, v]`.
      estimates: The estimates of each method by name; each has a row of panels.
      cells: The mask of real cells of each level.
      path: The picture; its folder is created if needed. The suffix sets the format.
    """
    figure = Figure(figsize=(3.6 * len(levels), 3.5 * len(estimates)), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(len(estimates), len(levels), squeeze=False)
    for row, (method, values) in zip(axes, estimates.items(), strict=True):
        for panel, level, truth, value, real in zip(row, levels, exact, values, cells, strict=True):
            x, y = truth[real], value[real]
            low, high = (float(bound) for bound in np.percentile(np.concatenate([x, y]), (0.1, 99.9)))
            margin = 0.05 * (high - low) or 1.0
            span = (low - margin, high + margin)
            panel.hexbin(x, y, gridsize=48, extent=(*span, *span), bins="log", mincnt=1, cmap="viridis", linewidths=0)
            panel.plot(span, span, color="0.45", linewidth=0.9, linestyle="--")
            panel.set(xlim=span, ylim=span, aspect="equal")
            panel.set_title(level, fontsize=10, loc="left")
            panel.set_xlabel("exact interaction, scaled", fontsize=9)
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(method, fontsize=9)
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
