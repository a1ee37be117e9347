"""Plots bench_plan.json: the bounds of a step by the number of chips, and the bytes sent by the batch."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BOUNDS = {"compute_ms": "compute", "hbm_ms": "HBM", "ici_ms": "links"}
COLOURS = {"compute_ms": "tab:blue", "hbm_ms": "tab:orange", "ici_ms": "tab:green"}


def plot_plan(rows: Sequence[Mapping], path: pathlib.Path, kind: str = "v5e", rows_a_chip: int = 16) -> bool:
    """Draws the steps of a kind of chip; returns whether there are at least two sizes of slices to draw.

    Args:
      rows: The rows of bench_plan.json.
      path: The PNG file.
      kind: The kind of chip.
      rows_a_chip: Rows a chip of the steps whose bounds are drawn.
    """
    known = [row for row in rows if row["topology"].startswith(f"{kind}:") and "compute_ms" in row]
    if len({row["chips"] for row in known if row["rows_a_chip"] == rows_a_chip}) < 2:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    styles = dict(zip(sorted({row["version"] for row in known}), ("-", "--"), strict=False))
    for version, style in styles.items():
        own = [row for row in known if (row["version"], row["rows_a_chip"]) == (version, rows_a_chip)]
        drawn = sorted(own, key=lambda row: row["chips"])
        for field, name in BOUNDS.items():
            values = [row[field] for row in drawn]
            left.loglog(
                [row["chips"] for row in drawn], values, f"o{style}", color=COLOURS[field], label=f"{version}, {name}"
            )
        right.plot(
            [row["batch"] for row in drawn], [row["sent_bytes"] / 1e6 for row in drawn], f"o{style}", label=version
        )
    chips = sorted({row["chips"] for row in known})
    left.set_xticks(chips, [str(count) for count in chips])
    left.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    left.minorticks_off()
    right.set_ylim(bottom=0)
    left.set(xlabel=f"{kind} chips", ylabel="milliseconds a step, at the peaks")
    right.set(xlabel="rows of the global batch", ylabel="MB sent by a chip in a step")
    figure.suptitle(f"{rows_a_chip} rows a chip")
    left.legend(fontsize=8, ncols=2, loc=(0.02, 0.46))
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return True
