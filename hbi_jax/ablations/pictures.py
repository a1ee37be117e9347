"""Plots of ablation tables: a dot per seed, the mean of each model, and chance."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# The results that get a panel if a table has them; otherwise the first three do.
SHOWN = ("t2v R@1", "v2t R@1", "in-group accuracy")
DOT, MEAN, GUESS = "#0072b2", "#222222", "#d55e00"
LINE = {"linestyle": "--", "linewidth": 1.1}


def ablation_figure(
    title: str, models: Mapping[str, Sequence[Mapping[str, float]]], chance: Mapping[str, float]
) -> Figure:
    """Draws one row per model and one panel per result.

    Args:
      title: The title.
      models: The results of each run by name, for each model; a model without runs keeps its row.
      chance: The result of guessing, by name: a dashed line, or a text if it is far from the others.

    Raises:
      ValueError: If no model has a run.
    """
    names = list(dict.fromkeys(name for runs in models.values() for run in runs for name in run))
    if not names:
        raise ValueError("no model has a run, wanted at least one; draw the table after its first run.")
    shown = [name for name in SHOWN if name in names] or names[:3]
    figure = Figure(
        figsize=(2.6 + 3.0 * len(shown), 1.25 + 0.34 * len(models)), dpi=110, facecolor="white", layout="constrained"
    )
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        for place, runs in enumerate(models.values()):
            values = [run[name] for run in runs if name in run]
            if not values:
                continue
            mean = sum(values) / len(values)
            axes.plot([min(values), max(values)], [place, place], color=DOT, alpha=0.35, linewidth=2.2)
            axes.plot(values, [place] * len(values), "o", color=DOT, alpha=0.75, markersize=5, markeredgewidth=0)
            axes.plot([mean], [place], "|", color=MEAN, markersize=13, markeredgewidth=2)
        if name in chance:
            _draw_chance(axes, chance[name])
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("percent" if "R@" in name or "accuracy" in name else name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.08)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    # From top to bottom, as in the table.
    panels[0].set_ylim(len(models) - 0.5, -0.5)
    panels[0].set_yticks(range(len(models)), list(models), fontsize=9)
    keys = [
        Line2D([], [], marker="o", linestyle="", color=DOT, alpha=0.75, markersize=5, label="a seed"),
        Line2D([], [], marker="|", linestyle="", color=MEAN, markersize=11, markeredgewidth=2, label="mean"),
    ]
    if any(line.get_label() == "chance" for axes in panels for line in axes.get_lines()):
        keys.append(Line2D([], [], color=GUESS, **LINE, label="chance"))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.legend(handles=keys, loc="outside lower right", ncols=len(keys), fontsize=8, frameon=False)
    return figure


def _draw_chance(axes: Axes, value: float) -> None:
    """Draws chance as a line, or as text if it is far off: the line would squeeze the models together."""
    low, high = axes.dataLim.intervalx
    if low - (high - low) <= value <= high + (high - low):
        axes.axvline(value, color=GUESS, **LINE, label="chance")
        return
    text = f"← chance {value:.1f}" if value < low else f"chance {value:.1f} →"
    # Beside the title, where no model is.
    axes.text(1, 1.02, text, color=GUESS, fontsize=8, ha="right", transform=axes.transAxes)


def plot_ablation(
    title: str,
    models: Mapping[str, Sequence[Mapping[str, float]]],
    chance: Mapping[str, float],
    path: str | os.PathLike[str],
) -> None:
    """Saves `ablation_figure` to a file. The suffix sets the format.

    Args:
      title: The title.
      models: The results of each run by name, for each model.
      chance: The result of guessing, by name.
      path: The picture; its folder is created if needed.

    Raises:
      ValueError: If no model has a run.
    """
    figure = ablation_figure(title, models, chance)
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
