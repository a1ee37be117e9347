"""Coverage-guided fuzzing of the readers of files from others, by atheris (a requirement of this script alone).

    pip install atheris
    python -m benchmarks.fuzz --seconds=120        # seconds for each reader

Every reader runs in a process of its own, with at most 2 GiB of memory, 10 seconds for an input, and an audit hook that
counts as a finding whatever a reader must not do: start a program, open a connection, write outside its folder. Any
exception but the reader's own is a finding, too. The seeds are in tests/faults/seeds.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from benchmarks import harness

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = ROOT / "tests" / "faults" / "seeds"
READERS = ("pickle", "archive", "safetensors", "json", "csv", "config", "video")
_MEMORY_MIB, _SECONDS = 2048, 10
_FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen")
_FORBIDDEN += ("socket.connect", "socket.bind", "ctypes.dlopen", "exec", "pty.spawn")


def _target(reader: str, folder: pathlib.Path):
    """Returns a function that reads an input, and the exceptions by which the reader refuses it."""
    import numpy as np

    from hbi_jax.data.datasets import readers
    from hbi_jax.data.datasets.msrvtt import load
    from hbi_jax.data.datasets.records import DataError
    from hbi_jax.data.video import VideoError, read_frames
    from hbi_jax.fields import ConfigError
    from hbi_jax.pretrained import pickles, tensors, torch_archive
    from hbi_jax.pretrained.errors import PretrainedError
    from hbi_jax.tasks.config import read_config

    def in_file(name, read):
        def target(data: bytes) -> None:
            path = folder / name
            path.write_bytes(data)
            read(path)

        return target

    def everything(entries) -> None:
        for entry in entries.values():
            if np.prod(entry.shape, dtype=np.float64) < 1e6:
                entry.read()

    def split(path: pathlib.Path) -> None:
        (folder / "MSRVTT_data.json").write_bytes(path.read_bytes())
        load(folder, folder, "train", train_list="list.csv")

    def rows(path: pathlib.Path) -> None:
        readers.read_csv(path, ("video_id", "sentence"))

    def storage(key: object, dtype: np.dtype, length: object) -> pickles.Storage:
        return pickles.Storage(str(key), dtype, 12)

    (folder / "list.csv").write_text("video_id\nvideo0\nvideo1\n")
    return {
        "pickle": (lambda data: pickles.unpickle(data, storage), PretrainedError),
        "archive": (in_file("a.pt", lambda path: everything(torch_archive.read_archive(path))), PretrainedError),
        "safetensors": (in_file("a.st", lambda path: everything(tensors.read_safetensors(path)[0])), PretrainedError),
        "json": (in_file("a.json", split), DataError),
        "csv": (in_file("a.csv", rows), DataError),
        "config": (in_file("config.json", read_config), (ConfigError, ValueError)),
        "video": (in_file("a.mp4", lambda path: read_frames(path, 2, 32)), VideoError),
    }[reader]


def _watch_over(folder: pathlib.Path) -> None:
    """Ends the process with a finding where something is done that no reader needs."""
    inside = str(folder)
    armed = True

    def hook(event: str, arguments: tuple) -> None:
        nonlocal armed
        if not armed:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        outside = writes and not str(arguments[0]).startswith((inside, "/dev/"))
        if outside or (event in _FORBIDDEN and not (event == "exec" and _is_own(arguments))):
            armed = False
            raise RuntimeError(f"forbidden: {event} {str(arguments)[:200]}")

    sys.addaudithook(hook)


def _is_own(arguments: tuple) -> bool:
    """Returns whether code is executed that the interpreter itself has just imported from a file."""
    return getattr(arguments[0], "co_filename", "<").startswith(("/", "<frozen"))


def _fuzz(reader: str, seconds: int) -> None:
    """Fuzzes one reader in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["hbi_jax.pretrained", "hbi_jax.data", "hbi_jax.fields"]):
        for module in ("pretrained", "data.datasets.readers", "data.datasets.msrvtt", "data.video", "tasks.config"):
            importlib.import_module(f"hbi_jax.{module}")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hbi_jax_fuzz_"))
    read, refusals = _target(reader, folder)
    for seed in sorted((SEEDS / reader).iterdir()):
        with contextlib.suppress(refusals):
            read(seed.read_bytes())  # Also imports what is imported on demand.
    _watch_over(folder)

    def once(data: bytes) -> None:
        with contextlib.suppress(refusals):
            read(data)

    corpus = folder / "corpus"
    corpus.mkdir()
    options = [f"-max_total_time={seconds}", f"-rss_limit_mb={_MEMORY_MIB}", f"-timeout={_SECONDS}", "-max_len=16384"]
    options += [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus), str(SEEDS / reader)], once)
    atheris.Fuzz()


def main() -> None:
    """Fuzzes every reader for some time and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--reader", choices=READERS)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results")
    flags = parser.parse_args()
    if flags.reader:
        _fuzz(flags.reader, flags.seconds)
        return
    if not importlib.util.find_spec("atheris"):
        parser.error("atheris is not installed; pip install atheris")
    results = {}
    for reader in READERS:
        begun = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.fuzz", f"--reader={reader}", f"--seconds={flags.seconds}"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
        )
        stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
        results[reader] = {
            "executions": int(stats.get("number_of_executed_units", 0)),
            "new_inputs": int(stats.get("new_units_added", 0)),
            "peak_memory_mib": int(stats.get("peak_rss_mb", 0)),
            "slowest_s": int(stats.get("slowest_unit_time_sec", 0)),
            "seconds": round(time.monotonic() - begun),
            "findings": 0 if done.returncode == 0 else 1,
        }
        print(reader, results[reader], flush=True)
        if done.returncode:
            print(done.stderr[-4000:], flush=True)
    harness.write(flags.out, "faults_fuzz", {"seconds_each": flags.seconds, "readers": results})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
