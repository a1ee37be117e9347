"""Whole runs in processes of their own, and what tables show of their reports."""

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping


def run(folder: pathlib.Path, config: str, *flags: str, log: pathlib.Path | None = None) -> dict:
    """Trains and evaluates in `folder`, or goes on with what was interrupted there; gives the report.

    A finished run is taken as it is. Whatever ends the wait, such as Ctrl-C, stops the process; it saves first.

    Args:
      folder: The work folder.
      config: A file of `configs/`, with its argument after a colon if it takes one.
      flags: Such as `--config.seed=1`.
      log: File that what the run prints is appended to; by default it is printed.

    Raises:
      CalledProcessError: If the run fails.
    """
    command = [sys.executable, "-m", "hbi_jax.main", f"--config={config}", f"--workdir={folder}", *flags]
    if not is_finished(folder):
        with contextlib.nullcontext() if log is None else log.open("ab") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
            try:
                code = process.wait()
            finally:
                process.terminate()
                process.wait()
        if code:
            raise subprocess.CalledProcessError(code, command)
    return json.loads((folder / "report.json").read_text())


def is_finished(folder: pathlib.Path) -> bool:
    """Whether a run came to its report."""
    return (folder / "report.json").exists()


def world(workdir: pathlib.Path) -> tuple[str, str]:
    """Flags that let all runs of the quickstart share one rendered world."""
    return (f"--config.data.annotations={workdir / 'data'}", f"--config.data.videos={workdir / 'data' / 'videos'}")


def figures(report: Mapping, row: int = 0) -> dict[str, float]:
    """What tables show of one row of a report: by default the run's own.

    Of retrieval the first gallery, and the accuracy among near-twins of the first that has groups; of any other task
    the columns of the first table.
    """
    if not report["galleries"]:
        table = report["tables"][0]
        cells = zip(table["columns"], table["rows"][row][1], strict=True)
        return {name: value for name, value in cells if value is not None}
    galleries = report["galleries"]
    found = _directions(galleries[0]["rows"][row]["metrics"])
    grouped = (gallery["rows"][row]["group_accuracy"] for gallery in galleries)
    accuracy = next((value for value in grouped if value is not None), None)
    return found if accuracy is None else {**found, "in-group accuracy": accuracy}


def chance(report: Mapping) -> dict[str, float]:
    """What guessing gives for `figures`; nothing where the report does not say."""
    galleries = report["galleries"]
    if not galleries:
        return {}
    guessed = (gallery["group_chance"] for gallery in galleries)
    accuracy = next((value for value in guessed if value is not None), None)
    found = _directions(galleries[0]["chance"])
    return found if accuracy is None else {**found, "in-group accuracy": accuracy}


def _directions(metrics: Mapping) -> dict[str, float]:
    t2v, v2t = metrics["t2v"], metrics["v2t"]
    return {
        **{f"t2v {name}": t2v[name] for name in ("R@1", "R@5", "R@10", "MnR")},
        "v2t R@1": v2t["R@1"],
        "Rsum": metrics["Rsum"],
    }
