"""Processor time to read a clip, with this checkout and another: `python -m benchmarks.bench_read --before FOLDER`.

The clips are those of `bench_data`, and one of the size of the quickstart's. The two checkouts read the same files in
processes of their own, which take turns, so that other load on the machine affects both alike. The ratio is the median
over the rounds of the ratio within a round. Writes bench_read.json.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from benchmarks import harness
from benchmarks.bench_data import CLIPS, GOPS, NUM_FRAMES, SCENES, SIZE, render

TINY = (3, 64, 64)
ROUNDS = 40
# Answers each line of input, a list of files, with the processor time of reading them, in milliseconds per file.
SERVE = """
import json, sys, time
from hbi_jax.data.video import read_frames
for line in sys.stdin:
    paths, max_frames, size = json.loads(line)
    begun = time.process_time()
    for path in paths:
        read_frames(path, max_frames, size)
    print(1e3 * (time.process_time() - begun) / len(paths), flush=True)
"""


def start(tree: pathlib.Path) -> subprocess.Popen:
    """Starts a process that reads files with the code of a checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", SERVE],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def milliseconds(process: subprocess.Popen, paths: list[str]) -> float:
    """Returns the processor time that a process needs to read each of some files, in milliseconds."""
    process.stdin.write(json.dumps([paths, NUM_FRAMES, SIZE]) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(processes: dict[str, subprocess.Popen], paths: list[str]) -> dict:
    """Returns the times of both checkouts and the ratio of now to before."""
    times: dict[str, list[float]] = {name: [] for name in processes}
    for call in range(ROUNDS + 1):
        # Each goes first in every other round.
        for name, process in list(processes.items())[:: 1 if call % 2 else -1]:
            took = milliseconds(process, paths)
            if call:  # the first round warms up
                times[name].append(took)
    ratios = np.divide(times["now"], times["before"])
    return {"milliseconds": {name: _spread(each) for name, each in times.items()}, "now_over_before": _spread(ratios)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    quartiles = np.percentile(values, [25, 50, 75]).round(3).tolist()
    return dict(zip(("p25", "median", "p75"), quartiles, strict=True))


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, required=True, help="another checkout, to compare with")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    options = parser.parse_args()
    trees = {"before": options.before.resolve(), "now": pathlib.Path(__file__).resolve().parents[1]}
    results = {}
    processes = {name: start(tree) for name, tree in trees.items()}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, size in {"tiny": TINY, **CLIPS}.items():
                for gop in GOPS:
                    files = [pathlib.Path(folder) / f"{name}-{gop}-{scene}.mp4" for scene in range(SCENES)]
                    paths = [str(render(path, *size, gop, scene)) for scene, path in enumerate(files)]
                    results[f"{name}, {gop}"] = measure(processes, paths)
                    print(name, gop, results[f"{name}, {gop}"], flush=True)
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    options.out.mkdir(parents=True, exist_ok=True)
    clips = {"tiny": TINY, **CLIPS}
    print(harness.write(options.out, "bench_read", {"clips": clips, "frames": NUM_FRAMES, "size": SIZE} | results))


if __name__ == "__main__":
    main()
