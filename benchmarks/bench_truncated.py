"""How many truncated videos are found: files of every container and codec, cut at every tenth.

    python -m benchmarks.bench_truncated                      # this code
    python -m benchmarks.bench_truncated --before FOLDER   # and that of another checkout, on the same files

A whole file has to be read; a cut one is found if it raises `VideoError`. One that gives the frames of the whole file
lacks only sound or an index, and is counted apart.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import harness
from tests.data.situations import KINDS, write

TIMES = [0.04 * frame for frame in range(100)]
# Reads the named files with the code of the working folder, and says of each a checksum of its frames, or nothing.
READ = """
import sys, json, zlib
from hbi_jax.data.video import VideoError, read_frames
found = {}
for path in json.load(sys.stdin):
    try:
        found[path] = zlib.crc32(read_frames(path, 12, 32, frames_per_second=2.0).tobytes())
    except VideoError:
        found[path] = None
json.dump(found, sys.stdout)
"""


def make(folder: pathlib.Path) -> dict[str, dict[int, list[str]]]:
    """Of each kind, with and without sound, the whole file (10) and what is cut at each tenth."""
    files: dict[str, dict[int, list[str]]] = {}
    for kind in KINDS:
        for sound in (0.0, 4.0) if kind.sound else (0.0,):
            name = f"{kind}{', with sound' if sound else ''}"
            whole = write(folder / f"{name}{kind.ending}", kind, TIMES, sound=sound)
            data = whole.read_bytes()
            for tenth in range(11):
                # Not at a multiple of 188 bytes, the packets of a broadcast: it would end whole.
                size = len(data) * tenth // 10
                path = folder / f"{name} {tenth}{kind.ending}"
                path.write_bytes(data if tenth == 10 else data[: max(0, size - size % 188 - 1)])
                files.setdefault(name, {}).setdefault(tenth, []).append(str(path))
    return files


def read(tree: pathlib.Path, paths: list[str]) -> dict[str, int | None]:
    """What the code of a checkout makes of some files."""
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input=json.dumps(paths),
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def judge(files: dict[str, dict[int, list[str]]], found: dict[str, int | None]) -> dict:
    """Shares of the files that are found, by tenth, and by kind."""
    kinds: dict[str, str] = {}
    tenths = {tenth: {"cut": 0, "found": 0, "all pictures": 0} for tenth in range(10)}
    wrong = []
    for name, by_tenth in files.items():
        (whole,) = by_tenth[10]
        if found[whole] is None:
            wrong.append(name)
        letters = ""
        for tenth in range(10):
            (path,) = by_tenth[tenth]
            tenths[tenth]["cut"] += 1
            tenths[tenth]["found"] += found[path] is None
            same = found[path] is not None and found[path] == found[whole]
            tenths[tenth]["all pictures"] += same
            letters += "x" if found[path] is None else "=" if same else "."
        kinds[name] = letters
    cut = sum(counts["cut"] - counts["all pictures"] for counts in tenths.values())
    share = sum(counts["found"] for counts in tenths.values()) / cut
    return {
        "share_found": round(share, 4),
        "tenths": tenths,
        "kinds": kinds,
        "whole_files": len(files),
        "whole_files_refused": wrong,
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, help="another checkout of the project, to compare with")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    options = parser.parse_args()
    trees = {"before": options.before, "now": pathlib.Path(__file__).resolve().parents[1]}
    with tempfile.TemporaryDirectory() as folder:
        files = make(pathlib.Path(folder))
        paths = [path for by_tenth in files.values() for group in by_tenth.values() for path in group]
        results = {name: judge(files, read(tree.resolve(), paths)) for name, tree in trees.items() if tree}
    for name, result in results.items():
        print(name, result["share_found"], "of whole files refused:", result["whole_files_refused"] or "none")
        for kind, letters in result["kinds"].items():
            print(f"  {letters}  {kind}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(harness.write(options.out, "bench_truncated", results))


if __name__ == "__main__":
    main()
