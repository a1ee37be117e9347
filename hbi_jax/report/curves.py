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

# A level has its colour in every panel, and so has a recall.
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
# The line of a learning rate that has no groups.
ALL_PARAMETERS = "all parameters"
# Scores of captions that are drawn; CIDEr may exceed 100.
CAPTION_SCORES = ("CIDEr", "ROUGE-L", "BLEU-4")
COLUMNS = 3
# A panel whose values span more than this factor, all positive, gets a logarithmic axis.
LOG_SPAN = 10.0
# From this many points on a smoothed line is drawn over the raw one.
SMOOTH_FROM = 60


class Series(NamedTuple):
    """The values of one metric over steps, in the order of the steps."""

    steps: Int[np.ndarray, " s"]
    values: Float[np.ndarray, " s"]


class Panel(NamedTuple):
    """One plot: what it shows, in what unit, and its lines by label."""

    title: str
    unit: str
    lines: dict[str, Series]


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Series]:
    """Reads the JSONL file of `train.writers.JsonlWriter`.

    Lines that are no whole row (a killed process) and values that are no finite number are left out. Where a
    step occurs more than once, because a run was resumed, the later row counts.

    Args:
      path: The file.

    Returns:
      One series a metric name, in the order of first occurrence.

    Raises:
      FileNotFoundError: There is no such file.
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
    """Arranges metrics by their names.

    `loss/total` and other one-part losses share the first panel; `loss/<level>/<term>` gives a panel a term
    with a line a level; `gate/<level>/<side>` gives a panel a side with a line a level (HBI V2, Fig. 9);
    `learning_rate` and `learning_rate/<group>` share one; `val/<gallery and direction>/R@<k>` gives a panel a
    direction with a line a recall; `val/.../<...>accuracy` share one, and so do the scores of
    captions. Other names are not drawn.

    Args:
      series: As `read_metrics` gives it.

    Returns:
      The panels that have a line, in the order above.
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
    """Draws the panels of a run, three a row.

    Args:
      series: As `read_metrics` gives it.

    Returns:
      A figure with one axes a panel, titled by it. No pyplot state is touched.

    Raises:
      ValueError: No metric has a name that `panels` knows.
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
        # One scale of steps for all, so that the panels can be read across.
        axes.set_xlim(0, max(last, 1) * 1.02)
        if place + columns >= len(shown):
            axes.set_xlabel("step", fontsize=9)
    return figure


def plot_training(metrics_jsonl_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Reads a run's metrics and saves their curves; the format follows from the suffix (.png, .svg, .pdf).

    Args:
      metrics_jsonl_path: What `train.writers.JsonlWriter` wrote.
      out_path: The file; its folder is made where it is missing.

    Raises:
      FileNotFoundError: There is no metrics file.
      ValueError: It holds nothing to draw.
    """
    figure = training_figure(read_metrics(metrics_jsonl_path))
    path = pathlib.Path(out_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw(axes, panel: Panel) -> None:
    """One panel: its lines, a legend where there are several, a fitting scale."""
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
    elif panel.unit == "learning rate":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_rate_label))
    elif panel.unit != "loss":
        axes.set_ylim(0, 102)
    if set(panel.lines) not in ({"total"}, {ALL_PARAMETERS}):
        axes.legend(fontsize=8, frameon=False, handlelength=1.4)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the points; shorter at the ends, where fewer are there."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    start, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _readable(name: str) -> str:
    """The directions in words, the rest as it is."""
    return name.replace("t2v", "text to video").replace("v2t", "video to text").replace("/", ", ").replace("_", " ")


def _rate_label(value: float, position: int | None = None) -> str:
    """A learning rate without the zeros of its exponent: 0, 1e-4, 2.5e-5."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
