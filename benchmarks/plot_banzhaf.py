"""The figure of docs/banzhaf.md, from bench_banzhaf.json: `python -m benchmarks.plot_banzhaf`.

An example (similarity, interaction) and the error of the closed form against the range of the logits.
"""

import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from hbi_jax import banzhaf
from hbi_jax.banzhaf import exact

ROOT = pathlib.Path(__file__).parent.parent
WORDS = ("the", "dog", "jumps", "jumping")
SIMILARITY = [  # "the" is like every frame; the last two words say the same
    [0.30, 0.31, 0.30, 0.29, 0.30],
    [0.60, 0.55, 0.25, 0.20, 0.15],
    [0.05, 0.15, 0.20, 0.65, 0.25],
    [0.05, 0.15, 0.20, 0.62, 0.25],
]


def bound(spread: float, num_tokens: int, dtype) -> float:
    """Bound of docs/banzhaf.md on the quadrature error of one weight change, at join probability 1/2."""
    rule = exact._quadrature(jnp.dtype(dtype))
    step = (rule.left + 0.5 * math.log(num_tokens) + spread + rule.right) / (rule.nodes - 1)
    angles = np.linspace(0.5, 1.57, 500)
    discretised = np.min(2 / np.cos(angles) / np.expm1(2 * np.pi * angles / step))
    return float(discretised + 0.25 * math.exp(-2 * rule.left) + 0.5 * math.exp(-math.exp(rule.right)))


def heatmap(axes, values: np.ndarray, title: str) -> None:
    """A matrix of words by frames with its numbers."""
    axes.imshow(values, cmap="RdBu_r", vmin=-np.abs(values).max(), vmax=np.abs(values).max())
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * np.abs(values).max()
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    axes.set_yticks(range(len(WORDS)), WORDS)
    axes.set_xticks(range(values.shape[1]), range(1, values.shape[1] + 1))
    axes.set(xlabel="frame", title=title)


def main() -> None:
    """Draws docs/images/banzhaf.png."""
    results = json.loads((ROOT / "benchmarks/results/bench_banzhaf.json").read_text())
    similarity = jnp.asarray(SIMILARITY)
    interaction = banzhaf.interaction(similarity, jnp.zeros(4), jnp.zeros(5))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    heatmap(left, np.asarray(similarity), "similarity")
    heatmap(middle, np.asarray(interaction), "Banzhaf interaction (equal weights)")

    rows = [row for row in results["error_against_enumeration"] if row["index"] == "banzhaf"]
    spreads = [row["logit_spread"] for row in rows]
    fine = np.linspace(0, max(spreads), 100)
    for name, colour in (("float32", "tab:orange"), ("float64", "tab:blue")):
        right.semilogy(spreads, [row[name] for row in rows], "o", color=colour, label=f"{name}, measured")
        limits = [bound(spread, 12, name) for spread in fine]
        right.semilogy(fine, limits, "-", color=colour, label=f"{name}, bound of the quadrature")
    right.axvspan(0, 25, color="0.93", zorder=0)
    right.set(
        xlabel="range of the logits",
        ylabel="largest error",
        title="error against enumeration",
        ylim=(1e-15, 1),
    )
    right.legend(fontsize=8)
    (ROOT / "docs/images").mkdir(parents=True, exist_ok=True)
    figure.savefig(ROOT / "docs/images/banzhaf.png", dpi=90)


if __name__ == "__main__":
    main()
