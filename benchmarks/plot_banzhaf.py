"""Plots the figures of docs/banzhaf.md from bench_banzhaf.json: `python -m benchmarks.plot_banzhaf`.

banzhaf.png: an example (similarity, interactions, values) and the error of the closed form by the range of the logits.
banzhaf_cost.png: error against time, compared with sampling, and time by number of tokens. `--results` sets the folder
of the JSON.
"""

import argparse
import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from hbi_jax import banzhaf
from hbi_jax.banzhaf import expectation

ROOT = pathlib.Path(__file__).parent.parent
WORDS = ("the", "dog", "jumps", "jumping")
SIMILARITY = [  # "the" is equally similar to every frame; the last two words are synonyms
    [0.30, 0.31, 0.30, 0.29, 0.30],
    [0.60, 0.55, 0.25, 0.20, 0.15],
    [0.05, 0.15, 0.20, 0.65, 0.25],
    [0.05, 0.15, 0.20, 0.62, 0.25],
]


def bound(spread: float, num_tokens: int, dtype) -> float:
    """Returns the bound of docs/banzhaf.md on the quadrature error of one weight change at join probability 1/2."""
    rule = expectation.quadrature(jnp.dtype(dtype))
    step = (rule.left + 0.5 * math.log(num_tokens) + spread + rule.right) / (rule.nodes - 1)
    angles = np.linspace(0.5, 1.57, 500)
    discretised = np.min(2 / np.cos(angles) / np.expm1(2 * np.pi * angles / step))
    return float(discretised + 0.25 * math.exp(-2 * rule.left) + 0.5 * math.exp(-math.exp(rule.right)))


def heatmap(axes, values: np.ndarray, title: str, words: list[str], frames: list[str]) -> None:
    """Draws a matrix of words by frames with its numbers."""
    axes.imshow(values, cmap="RdBu_r", vmin=-np.abs(values).max(), vmax=np.abs(values).max())
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * np.abs(values).max()
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    axes.set_yticks(range(len(words)), words)
    axes.set_xticks(range(len(frames)), frames)
    axes.set(xlabel="frame", title=title)


def example(left, right) -> None:
    """Draws the example: similarities, and their interactions and values."""
    similarity = jnp.asarray(SIMILARITY)
    logits = jnp.zeros(similarity.shape[0]), jnp.zeros(similarity.shape[1])
    interaction = banzhaf.interaction(similarity, *logits)
    word_values, frame_values = banzhaf.value(similarity, *logits)
    frames = [str(1 + k) for k in range(similarity.shape[1])]
    heatmap(left, np.asarray(similarity), "similarity", WORDS, frames)
    heatmap(
        right,
        np.asarray(interaction),
        "Banzhaf interaction; values in brackets",
        [f"{word} ({value:.2f})" for word, value in zip(WORDS, word_values, strict=True)],
        [f"{frame}\n({value:.2f})" for frame, value in zip(frames, frame_values, strict=True)],
    )


def error_against_range(axes, results: dict) -> None:
    """Draws the measured errors and their bound."""
    rows = [row for row in results["error_against_enumeration"] if row["index"] == "banzhaf"]
    spreads = [row["logit_spread"] for row in rows]
    fine = np.linspace(0, max(spreads), 100)
    for name, colour in (("float32", "tab:orange"), ("float64", "tab:blue")):
        axes.semilogy(spreads, [row[name] for row in rows], "o", color=colour, label=f"{name}, measured")
        limits = [bound(spread, 12, name) for spread in fine]
        axes.semilogy(fine, limits, "-", color=colour, label=f"{name}, bound of the quadrature")
    axes.axvspan(0, 25, color="0.93", zorder=0)
    axes.set(xlabel="range of the logits", ylabel="largest error", title="error against enumeration", ylim=(1e-16, 1))
    axes.legend(fontsize=8, loc="lower right")


def error_against_time(axes, results: dict) -> None:
    """Draws error against time for sampling and the closed form on one batch."""
    sampling, exact = results["sampling"], results["batch"]
    rows = sampling["samples"]
    label = f"sampling, {rows[0]['num_samples']} to {rows[-1]['num_samples']} coalitions"
    axes.loglog([row["median_ms"] for row in rows], [row["rms_error"] for row in rows], "o-", label=label)
    for row in (rows[0], rows[-1]):
        axes.annotate(f" {row['num_samples']}", (row["median_ms"], row["rms_error"]), fontsize=8, va="bottom")
    axes.loglog(exact["median_ms"], sampling["exact_rms_error"], "s", color="tab:red", label="closed form, float32")
    axes.axvline(
        results["estimator"]["median_ms"], color="0.5", linestyle="--", label="estimator's forward pass (time)"
    )
    axes.axhline(sampling["rms_interaction"], color="0.5", linestyle=":", label="size of the interactions themselves")
    pairs, words, frames = sampling["shape"]
    axes.set(
        xlabel="milliseconds",
        ylabel="root mean square error",
        title=f"{pairs} pairs of {words} words and {frames} frames",
        xlim=(None, 4 * max(row["median_ms"] for row in rows)),
    )
    axes.legend(fontsize=8, loc="center right")


def time_against_tokens(axes, results: dict) -> None:
    """Draws the time per pair by its number of tokens."""
    rows = results["tokens"]
    tokens = np.asarray([row["shape"][1] for row in rows])
    per_pair = np.asarray([row["median_ms"] / row["shape"][0] for row in rows])
    axes.loglog(tokens, per_pair, "s-", color="tab:red", label="closed form")
    axes.loglog(tokens, per_pair[-1] * (tokens / tokens[-1]) ** 3, ":", color="0.5", label="third power of the tokens")
    axes.set_xticks(tokens, [f"{n}" for n in tokens], minor=False)
    axes.minorticks_off()
    axes.set(xlabel="words, and as many frames", ylabel="milliseconds a pair", title="time against tokens")
    axes.legend(fontsize=8)


def main() -> None:
    """Draws both figures into docs/images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "benchmarks/results", help="folder of the JSON")
    results = json.loads((parser.parse_args().results / "bench_banzhaf.json").read_text())
    images = ROOT / "docs/images"
    images.mkdir(parents=True, exist_ok=True)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    example(left, middle)
    error_against_range(right, results)
    figure.savefig(images / "banzhaf.png", dpi=90)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    error_against_time(left, results)
    time_against_tokens(right, results)
    figure.savefig(images / "banzhaf_cost.png", dpi=90)


if __name__ == "__main__":
    main()
