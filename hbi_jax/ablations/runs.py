"""Complete runs in their own processes, and the results that tables take from their reports."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping


def run(
    folder: pathlib.Path,
    config: str,
    *flags: str,
    log: pathlib.Path | None = None,
    programs: pathlib.Path | None = None,
) -> dict:
    """Trains and evaluates in `folder`, or resumes the run that was interrupted there, and returns the report.

    A finished run is not repeated. If the wait ends early, for instance by Ctrl-C, the process is stopped after it has
    saved a checkpoint.

    Args:
      folder: The work folder.
      config: A file of `configs/`, with its argument after a colon if it takes one.
      flags: Further flags, such as `--config.seed=1`.
      log: A file that the output of the run is appended to; by default the output is printed.
      programs: A folder of compiled programs, which runs that differ in their seed share; None: that of the
        environment, or none.

    Raises:
      CalledProcessError: If the run fails.
    """
    command = [sys.executable, "-m", "hbi_jax.main", f"--config={config}", f"--workdir={folder}", *flags]
    if not is_finished(folder):
        with contextlib.nullcontext() if log is None else log.open("ab") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=_environment(programs))
            try:
                code = process.wait()
            finally:
                process.terminate()
                process.wait()
        if code:
            raise subprocess.CalledProcessError(code, command)
    return json.loads((folder / "report.json").read_text())


def _environment(programs: pathlib.Path | None) -> dict[str, str]:
    """Returns the environment of a run that keeps its programs in a folder, unless the caller's names one."""
    known = dict(os.environ)
    # Read back, programs of several simulated devices can deadlock in their collectives.
    simulated = "device_count" in known.get("XLA_FLAGS", "") or "JAX_NUM_CPU_DEVICES" in known
    return known if programs is None or simulated else {"JAX_COMPILATION_CACHE_DIR": str(programs), **known}


def is_finished(folder: pathlib.Path) -> bool:
    """Returns whether a run has written its report."""
    return (folder / "report.json").exists()


def world(workdir: pathlib.Path) -> tuple[str, str]:
    """Returns flags that let all runs of the quickstart share one rendered world."""
    return (f"--config.data.annotations={workdir / 'data'}", f"--config.data.videos={workdir / 'data' / 'videos'}")


def figures(report: Mapping, row: int = 0) -> dict[str, float]:
    """Returns the results of one row of a report, by default of the run's own row.

    For retrieval these are the metrics of the first gallery, the in-group accuracy of the first gallery that has
    groups, and of the run's own row the interaction inside the true frames by role, if the report measures it; for
    other tasks, the columns of the first table.
    """
    if not report["galleries"]:
        table = report["tables"][0]
        cells = zip(table["columns"], table["rows"][row][1], strict=True)
        return {name: value for name, value in cells if value is not None}
    galleries = report["galleries"]
    found = _directions(galleries[0]["rows"][row]["metrics"])
    grouped = (gallery["rows"][row]["group_accuracy"] for gallery in galleries)
    accuracy = next((value for value in grouped if value is not None), None)
    if accuracy is not None:
        found["in-group accuracy"] = accuracy
    return found if row else found | _pointing(report, "mass inside, %")


def chance(report: Mapping) -> dict[str, float]:
    """Returns the results of guessing for `figures`, or nothing if the report has none."""
    galleries = report["galleries"]
    if not galleries:
        return {}
    guessed = (gallery["group_chance"] for gallery in galleries)
    accuracy = next((value for value in guessed if value is not None), None)
    found = _directions(galleries[0]["chance"]) | _pointing(report, "uniform, %")
    return found if accuracy is None else {**found, "in-group accuracy": accuracy}


def _pointing(report: Mapping, column: str) -> dict[str, float]:
    """Returns a column of the first table on pointing, for the exact interaction, by role."""
    for table in report["tables"]:
        if table["name"].startswith("pointing,"):
            place, own = table["columns"].index(column), "interaction: "
            rows = {name.removeprefix(own): values for name, values in table["rows"] if name.startswith(own)}
            return {f"{role} inside, %": values[place] for role, values in rows.items()}
    return {}


def _directions(metrics: Mapping) -> dict[str, float]:
    t2v, v2t = metrics["t2v"], metrics["v2t"]
    return {
        **{f"t2v {name}": t2v[name] for name in ("R@1", "R@5", "R@10", "MnR")},
        "v2t R@1": v2t["R@1"],
        "Rsum": metrics["Rsum"],
    }
