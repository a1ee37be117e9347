"""Training curves as small multiples: losses by term and level, learning rate, validation recall."""

import json
import math
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# A level or a recall has the same colour in every panel.
COLOURS = {
    "entity": "#0072b2",
    "action": "#d55e00",
    "event": "#009e73",
    "total": "#222222",
    "R@1": "#7b3294",
    "R@5": "#c2739a",
    "R@10": "#e39a4d",
    "R@50": "#b8b8b8",
}
OTHER_COLOURS = ("#56b4e9", "#8c564b", "#bcbd22", "#e377c2", "#17becf")
# The label of a learning rate without groups.
ALL_PARAMETERS = "all parameters"
# The caption scores that are drawn; CIDEr may exceed 100.
CAPTION_SCORES = ("CIDEr", "ROUGE-L", "BLEU-4")
COLUMNS = 3
# A loss panel with positive values that span more than this factor gets a logarithmic axis.
LOG_SPAN = 10.0
# With at least this many points, a smoothed line is drawn over the raw line.
SMOOTH_FROM = 60


class Series(NamedTuple):
    """The values of one metric over steps, in the order of the steps."""

    steps: Int[np.ndarray, " s"]
    values: Float[np.ndarray, " s"]


class Panel(NamedTuple):
    """One plot: its title, its unit, and its lines by label."""

    title: str
    unit: str
    lines: dict[str, Series]


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Series]:
    """Reads the JSONL file that `train.writers.JsonlWriter` wrote.

    Incomplete lines (of a killed process) and values that are not finite are skipped. If a step occurs more than once
    because the run was resumed, the last row counts.

    Args:
      path: The file.

    Returns:
      One series per metric, in the order of first occurrence.

    Raises:
      FileNotFoundError: If there is no such file.
    """
    found: dict[str, dict[int, float]] = {}
    for line in pathlib.Path(path).read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            continue
        for name, value in row.items():
            if name not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, {})[row["step"]] = float(value)
    return {
        name: Series(np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for name, values in found.items()
    }


def panels(series: dict[str, Series]) -> list[Panel]:
    """Groups metrics into panels by their names.

    `loss/total` and other losses without a level share the first panel. `loss/<level>/<term>` gets a panel per term
    with a line per level, and `gate/<level>/<side>` a panel per side with a line per level (HBI V2, Fig. 9).
    `learning_rate` and `learning_rate/<group>` share a panel. `val/<gallery and direction>/R@<k>` gets a panel per
    direction with a line per recall. All `val/.../<...>accuracy` share a panel, and so do the caption scores. Other
    names are not drawn.

    Args:
      series: The metrics, as returned by `read_metrics`.

    Returns:
      The panels with at least one line, in the order above.
    """
    losses = Panel("total loss", "loss", {})
    rates = Panel("learning rate", "learning rate", {})
    accuracies = Panel("validation accuracy", "percent", {})
    scores = Panel("validation, captions", "score", {})
    terms: dict[str, Panel] = {}
    gates = {
        "video": Panel("video gate gamma", "mean over real frames", {}),
        "text": Panel("text gate delta", "mean over real words", {}),
    }
    recalls: dict[str, Panel] = {}
    for name, line in series.items():
        first, *rest = name.split("/")
        if first == "loss" and len(rest) == 1:
            losses.lines[rest[0]] = line
        elif first == "loss" and len(rest) == 2:
            level, term = rest
            terms.setdefault(term, Panel(f"{term} loss", "loss", {})).lines[level] = line
        elif first == "gate" and len(rest) == 2 and rest[1] in gates:
            level, side = rest
            gates[side].lines[level] = line
        elif first == "learning_rate":
            rates.lines["/".join(rest) or ALL_PARAMETERS] = line
        elif first == "val" and len(rest) > 1 and re.fullmatch(r"R@\d+", rest[-1]):
            title = f"validation, {_readable('/'.join(rest[:-1]))}"
            recalls.setdefault(title, Panel(title, "recall, percent", {})).lines[rest[-1]] = line
        elif first == "val" and name.endswith("accuracy"):
            accuracies.lines[_readable("/".join(rest))] = line
        elif first == "val" and rest and rest[-1] in CAPTION_SCORES:
            scores.lines[rest[-1]] = line
    everything = [losses, *terms.values(), *gates.values(), rates, *recalls.values(), accuracies, scores]
    return [panel for panel in everything if panel.lines]


def training_figure(series: dict[str, Series]) -> Figure:
    """Draws the panels of a run, three per row.

    Args:
      series: The metrics, as returned by `read_metrics`.

    Returns:
      A figure with one titled axes per panel. The pyplot state is unchanged.

    Raises:
      ValueError: If `panels` knows none of the metric names.
    """
    shown = panels(series)
    if not shown:
        raise ValueError(
            f"metrics hold {sorted(series) or 'no row'}, wanted names like 'loss/total' or 'val/t2v/R@1'; "
            "draw the curves after the first logged step."
        )
    rows = math.ceil(len(shown) / COLUMNS)
    columns = min(COLUMNS, len(shown))
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    last = max(int(line.steps[-1]) for panel in shown for line in panel.lines.values())
    for place, panel in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw(axes, panel)
        # All panels share one scale of steps, so that they can be compared.
        axes.set_xlim(0, max(last, 1) * 1.02)
        if place + columns >= len(shown):
            axes.set_xlabel("step", fontsize=9)
    return figure


def plot_training(metrics_jsonl_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Draws the curves of a run's metrics and saves them. The suffix sets the format (.png, .svg, .pdf).

    Args:
      metrics_jsonl_path: The file that `train.writers.JsonlWriter` wrote.
      out_path: The picture; its folder is created if needed.

    Raises:
      FileNotFoundError: If there is no metrics file.
      ValueError: If the file holds nothing to draw.
    """
    figure = training_figure(read_metrics(metrics_jsonl_path))
    path = pathlib.Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw(axes, panel: Panel) -> None:
    """Draws one panel: its lines, a legend if there are several, and a suitable scale."""
    spare = iter(OTHER_COLOURS * (1 + len(panel.lines) // len(OTHER_COLOURS)))
    for label, (steps, values) in panel.lines.items():
        colour = COLOURS.get(label) or next(spare)
        smoothed = len(values) >= SMOOTH_FROM and panel.unit == "loss"
        few = {"marker": "o", "markersize": 3.5} if len(values) <= 30 else {}
        raw = {"alpha": 0.25, "linewidth": 0.8} if smoothed else {"label": label, "linewidth": 1.5}
        axes.plot(steps, values, color=colour, **raw, **few)
        if smoothed:
            axes.plot(steps, _smooth(values), color=colour, linewidth=1.7, label=label)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    values = np.concatenate([line.values for line in panel.lines.values()])
    if panel.unit == "loss" and values.min() > 0 and values.max() > LOG_SPAN * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.unit.endswith("percent"):
        axes.set_ylim(0, 102)
    elif panel.unit in ("learning rate", "score"):
        axes.set_ylim(bottom=0)
    if panel.unit == "learning rate":
        axes.yaxis.set_major_formatter(FuncFormatter(_rate_label))
    if set(panel.lines) not in ({"total"}, {ALL_PARAMETERS}):
        axes.legend(fontsize=8, frameon=False, handlelength=1.4)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Returns the centred running mean over a twentieth of the points; the window is shorter at the ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    start, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _readable(name: str) -> str:
    """Returns a metric name with directions and separators spelled out."""
    return name.replace("t2v", "text to video").replace("v2t", "video to text").replace("/", ", ").replace("_", " ")


def _rate_label(value: float, position: int | None = None) -> str:
    """Formats a learning rate without zeros in the exponent: 0, 1e-4, 2.5e-5."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
