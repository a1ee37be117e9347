"""Times `make quickstart` for a new user: from a fresh clone, with nothing installed.

    python -m benchmarks.fresh_quickstart --out benchmarks/results

Claim: at most 8 minutes on two CPU cores, installation included. Needs a package index and a committed tree, because it
clones HEAD.
"""

import json
import pathlib
import subprocess
import tempfile
import time

from benchmarks.harness import parse_arguments, write

ROOT = pathlib.Path(__file__).parents[1]


def seconds(*command: str, cwd: pathlib.Path) -> float:
    """Runs a command and returns its wall time in seconds. Raises if it fails."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True)
    return round(time.perf_counter() - begun, 1)


def main() -> None:
    """Runs the quickstart and writes fresh_quickstart.json."""
    out = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        clone = pathlib.Path(folder) / "clone"
        times = {
            "clone_s": seconds("git", "clone", "--quiet", str(ROOT), str(clone), cwd=ROOT),
            "install_s": seconds("make", ".venv/run.stamp", cwd=clone),
            "run_s": seconds("make", "quickstart", cwd=clone),
        }
        report = json.loads((clone / "runs" / "quickstart" / "report.json").read_text())
    times["total_s"] = round(sum(times.values()), 1)
    test, twins = report["galleries"]
    results = {
        **times,
        "training": report["training"],
        "batch_size": report["config"]["train"]["batch_size"],
        "t2v R@1": test["rows"][0]["metrics"]["t2v"]["R@1"],
        "t2v R@10": test["rows"][0]["metrics"]["t2v"]["R@10"],
        "in-group accuracy": twins["rows"][0]["group_accuracy"],
    }
    print(write(out, "fresh_quickstart", results).read_text())


if __name__ == "__main__":
    main()
