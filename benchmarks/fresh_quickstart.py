"""Times `make quickstart` for a new user: from a fresh clone, with nothing installed.

    python -m benchmarks.fresh_quickstart --python python3.11 --python python3.12 --python python3.13

Goal: at most 5 minutes on two CPU cores, installation included. Needs a package index and a committed tree, because it
clones HEAD. The JSON has a record for each version of Python; running a version again replaces its record.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def seconds(*command: str, cwd: pathlib.Path) -> float:
    """Runs a command and returns its wall time in seconds. Raises if it fails."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True)
    return round(time.perf_counter() - begun, 1)


def measure(python: str) -> dict:
    """Returns the record of one interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        clone = pathlib.Path(folder) / "clone"
        make = ("make", f"PYTHON={python}", "VENV=.venv")
        times = {
            "clone_s": seconds("git", "clone", "--quiet", str(ROOT), str(clone), cwd=ROOT),
            "install_s": seconds(*make, ".venv/run.stamp", cwd=clone),
            "run_s": seconds(*make, "quickstart", cwd=clone),
        }
        report = json.loads((clone / "runs" / "quickstart" / "report.json").read_text())
        # The versions are those of the clone's environment.
        told = "import json; from benchmarks.harness import environment; print(json.dumps(environment()))"
        environment = json.loads(subprocess.check_output([clone / ".venv/bin/python", "-c", told], cwd=clone))
    test, twins = report["galleries"]
    return {
        **environment,
        **times,
        "total_s": round(sum(times.values()), 1),
        "training": report["training"],
        "batch_size": report["config"]["train"]["batch_size"],
        "t2v R@1": test["rows"][0]["metrics"]["t2v"]["R@1"],
        "t2v R@10": test["rows"][0]["metrics"]["t2v"]["R@10"],
        "in-group accuracy": twins["rows"][0]["group_accuracy"],
    }


def version(record: dict) -> tuple[int, int]:
    """Of Python, such as (3, 12)."""
    major, minor, _ = record["versions"]["python"].split(".")
    return int(major), int(minor)


def main() -> None:
    """Runs it with each interpreter and puts the records into fresh_quickstart.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated (default: this one)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks/results", help="folder of the JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fresh_quickstart.json"
    for python in options.python or [sys.executable]:
        records = json.loads(path.read_text())["runs"] if path.exists() else []
        new = measure(python)
        kept = [record for record in records if version(record) != version(new)]
        runs = sorted((*kept, new), key=version)
        path.write_text(json.dumps({"benchmark": "fresh_quickstart", "runs": runs}, indent=2) + "\n")
        print(json.dumps(new, indent=2))


if __name__ == "__main__":
    main()
