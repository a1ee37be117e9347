"""What goes wrong, counted: kills, failing storage, memory over many steps and long videos. docs/reliability.md has it.

    python -m benchmarks.faults kills --kills=100
    python -m benchmarks.faults kills --kills=20 --processes=2
    python -m benchmarks.faults storage [--shim=FOLDER]     # FOLDER of libfiu's libraries, for errors of system calls
    python -m benchmarks.faults memory --steps=10000
    python -m benchmarks.faults video --minutes=120

Each writes benchmarks/results/faults_<name>.json. `python -m benchmarks.fuzz` writes that of the fuzzer.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def _command(world: pathlib.Path, **changes: object) -> list[str]:
    """Returns the command line of the smallest run, without its work folder."""
    from tests.faults.jobs import flags

    return [flag for flag in flags(world, world, **changes) if not flag.startswith("--workdir")]


def _environment(folder: pathlib.Path) -> None:
    """Keeps compiled programs in a folder, before JAX is imported; those of several devices are compiled each time."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def kills(flags: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Kills runs at random moments, and compares what they leave with an undisturbed run's."""
    _environment(folder)
    if flags.processes > 1:
        del os.environ["JAX_COMPILATION_CACHE_DIR"]
    # Imported before the processes are forked. Nothing here starts JAX's devices.
    import hbi_jax.experiment
    import hbi_jax.main  # noqa: F401
    from tests.faults.kills import campaign

    arguments = _command(folder / "world", train__num_steps=12, train__eval_every=4, train__checkpoint_every=2)
    begun = time.monotonic()
    limit = 60 * flags.limit if flags.limit else float("inf")
    done, different = campaign(arguments, folder, flags.kills, flags.seed, flags.processes, limit=limit)
    return {
        "kills": len(done),
        "processes": flags.processes,
        "different": different,
        "stages": dict(collections.Counter(kill.stage for kill in done).most_common()),
        "slowest_end_of_the_others_s": max(kill.survivors_s for kill in done),
        "seconds": round(time.monotonic() - begun),
    }


def storage(flags: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Damages checkpoints and makes saves fail."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder)}
    if flags.shim:
        libraries = (flags.shim / "fiu" / f"fiu_{name}_preload.so" for name in ("run", "posix"))
        environment |= {"LD_LIBRARY_PATH": str(flags.shim), "LD_PRELOAD": " ".join(map(str, libraries))}
    command = [sys.executable, "-m", "tests.faults.storage"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        "cases": len(cases),
        "ends": dict(collections.Counter(end for _, end, _ in cases)),
        "shim": bool(flags.shim),
        "outcomes": [{"case": case, "end": end, "message": _without_folder(said)[:200]} for case, end, said in cases],
    }


def _without_folder(message: str) -> str:
    return re.sub(r"/\S*/(?=(copy|saves|small|frozen)-)", "FOLDER/", message)


def memory(flags: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Trains a tiny model for many steps with all loggers, and looks at the resident memory."""
    from hbi_jax.data import shapes

    world = shapes.WorldConfig(num_train=24, num_val=8, num_test=8, num_twin_groups=2)
    shapes.generate(folder / "world", world, num_workers=1, show_progress=False)
    (folder / "run").mkdir()
    command = [
        sys.executable,
        "-m",
        "tests.faults.memory",
        str(folder / "world"),
        str(folder / "run"),
        str(flags.steps),
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


# Frames a second of the long videos: memory grows with the seconds, if at all.
_RATE = 5
_READ = r"""
import pathlib, re, sys, time
from hbi_jax.data.video import read_frames

def peak():
    return int(re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

read_frames(sys.argv[2], 12, 224)
before, begun = peak(), time.monotonic()
frames = read_frames(sys.argv[1], 12, 224)
print(len(frames), peak() - before, time.monotonic() - begun)
"""


def video(flags: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Reads a long .ts and the same as .mp4 and compares the memory."""
    from fractions import Fraction

    import av
    import numpy as np

    found = {}
    for kind in (".mp4", ".ts"):
        for name, minutes in (("short", 1), ("long", flags.minutes)):
            with av.open(str(folder / f"{name}{kind}"), "w") as file:
                stream = file.add_stream("mpeg4", rate=_RATE)
                stream.width, stream.height, stream.pix_fmt, stream.gop_size = 128, 96, "yuv420p", 250
                for shown in range(_RATE * 60 * minutes):
                    frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), shown % 250, np.uint8), format="rgb24")
                    frame.pts, frame.time_base = shown, Fraction(1, _RATE)
                    file.mux(stream.encode(frame))
                file.mux(stream.encode())
        command = [sys.executable, "-c", _READ, str(folder / f"long{kind}"), str(folder / f"short{kind}")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        frames, mib, seconds = map(float, done.stdout.split())
        found[kind] = {"frames": int(frames), "peak_above_a_minute_mib": round(mib, 1), "seconds": round(seconds, 1)}
    return {"minutes": flags.minutes, "files": found}


_MEASUREMENTS = {"kills": kills, "storage": storage, "memory": memory, "video": video}


def main() -> None:
    """Makes one measurement and writes its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=_MEASUREMENTS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--limit", type=float, default=0, help="minutes after which no other run is killed; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shim", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    flags = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        result = _MEASUREMENTS[flags.measurement](flags, pathlib.Path(folder))
    from benchmarks import harness

    name = f"faults_{flags.measurement}" + (f"_{flags.processes}" if flags.processes > 1 else "")
    harness.write(flags.out, name, {"load_average_before": [round(x, 2) for x in load], **result})
    print(json.dumps({key: value for key, value in result.items() if key != "outcomes"}, indent=2))


if __name__ == "__main__":
    main()
