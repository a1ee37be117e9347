"""Whole runs for benchmarks: calls of `python -m hbi_jax.main`, those already finished taken as they are."""

import json
import pathlib
import subprocess
import sys


def run(folder: pathlib.Path, config: str, *overrides: str) -> dict:
    """Trains and evaluates in `folder`, or goes on with what was interrupted there; gives the report.

    Args:
      folder: The work folder.
      config: A file of `configs/`, with its argument after a colon if it takes one.
      overrides: Flags such as `--config.seed=1`.
    """
    command = [sys.executable, "-m", "hbi_jax.main", f"--config={config}", f"--workdir={folder}", *overrides]
    if not (folder / "report.json").exists():
        subprocess.run(command, check=True)
    return json.loads((folder / "report.json").read_text())


def world(workdir: pathlib.Path) -> tuple[str, str]:
    """Overrides that let all runs of a benchmark share one rendered world."""
    return (f"--config.data.annotations={workdir / 'data'}", f"--config.data.videos={workdir / 'data' / 'videos'}")


def figures(report: dict, row: int = 0) -> dict[str, float]:
    """What tables show of one row of a quickstart's report."""
    test, twins = report["galleries"]
    metrics = test["rows"][row]["metrics"]
    return {
        "t2v R@1": metrics["t2v"]["R@1"],
        "t2v R@10": metrics["t2v"]["R@10"],
        "v2t R@1": metrics["v2t"]["R@1"],
        "in-group accuracy": twins["rows"][row]["group_accuracy"],
    }


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, smallest and largest of each figure over several runs."""
    return {
        name: {
            "mean": round(sum(row[name] for row in rows) / len(rows), 1),
            "min": round(min(row[name] for row in rows), 1),
            "max": round(max(row[name] for row in rows), 1),
        }
        for name in rows[0]
    }
