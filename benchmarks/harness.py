"""Shared code of the benchmarks: timing of compiled functions, a record of the machine, JSON files."""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Timing(NamedTuple):
    """Compile time in seconds, and latency of a blocked call in milliseconds.

    Quote the median; p10 and p90 show how quiet the machine was. `temp_bytes` is the memory of the compiled function
    besides its inputs and outputs.
    """

    compile_s: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int
    temp_bytes: int


def time_jitted(function: Callable, *args, calls: int = 50, warmup: int = 3) -> Timing:
    """Compiles a function for the given arguments and times `calls` blocked calls.

    Args:
      function: A function that JAX can trace, jitted or not.
      *args: Its arguments, already on the device.
      calls: Number of timed calls, at least 1.
      warmup: Number of untimed calls before them.

    Returns:
      The timing; `compile_s` excludes tracing and lowering.
    """
    lowered = jax.jit(function).lower(*args)
    start = time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    milliseconds = []
    for call in range(warmup + calls):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        if call >= warmup:
            milliseconds.append(1e3 * (time.perf_counter() - start))
    p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
    rounded = (round(float(x), 4) for x in (compile_s, median, p10, p90))
    return Timing(*rounded, calls, compiled.memory_analysis().temp_size_in_bytes)


def peak_bytes() -> int:
    """Returns the peak memory of this process, in bytes; Linux only."""
    # Not getrusage, whose peak is inherited across fork and exec.
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def environment() -> dict:
    """Returns the device, the versions and the commit of a measurement."""
    devices = jax.devices()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = importlib.metadata.version(package)
    return {
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "cpu_cores": len(os.sched_getaffinity(0)),
            "load_average": [round(x, 2) for x in os.getloadavg()],
        },
        "versions": versions,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def parse_arguments(description: str, argv: list[str] | None = None) -> pathlib.Path:
    """Parses `--out`, the folder of the results."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    return parser.parse_args(argv).out


def write(out: pathlib.Path, name: str, results: dict) -> pathlib.Path:
    """Writes the environment and the results to `name`.json, in a folder that is created if needed."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, **environment(), **results}, indent=2) + "\n")
    return path


def _commit() -> str | None:
    """Returns the commit of the working tree, marked if files differ from it; None outside a repository."""
    try:
        return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*command: str) -> str:
    folder = pathlib.Path(__file__).parent
    return subprocess.check_output(["git", *command], cwd=folder, text=True, stderr=subprocess.DEVNULL).strip()
