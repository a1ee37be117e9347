"""Jobs of real processes on this machine, with the smallest model there is."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.tiny_run import SMALLEST

ROOT = pathlib.Path(__file__).parents[2]
# What takes many minutes is left out of the suite; `make test-faults` runs it.
only_when_asked = pytest.mark.skipif(
    os.environ.get("HBI_JAX_FAULTS", "0") in ("", "0"), reason="jobs of many processes take minutes: make test-faults"
)
# What a job of several processes compiles is not shared (tests/compilation.py), so it has little to compile.
TINY = SMALLEST | {
    "model.clip.image_size": 32,
    "data.num_frames": 2,
    "data.frames_per_second": 1.0,
    "data.num_threads": 1,
    "data.world.num_train": 24,
    "eval.baselines": False,
    "eval.num_pictures": 0,
    "train.log_every": 2,
}


def flags(world: pathlib.Path, workdir: pathlib.Path, config: str = "quickstart", **changes: object) -> list[str]:
    """Returns the command line of a run on a rendered world; `__` stands for the dot between section and field."""
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    fields |= {"data.annotations": world, "data.videos": world / "videos"}
    return [
        f"--config={ROOT / 'configs' / config}.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


class Job:
    """Processes with their outputs, in files.

    Attributes:
      processes: The processes, by their number.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        count: int,
        arguments: Sequence[str],
        devices: int = 1,
        program: Sequence[str] = ("-m", "hbi_jax.main"),
        own: Mapping[int, Sequence[str]] | None = None,
    ):
        """Starts a job; a single process is no member of a job. `own` has arguments of single processes."""
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = dict(os.environ) | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        }
        if count * devices > 1:
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        self.logs = [folder / f"{number}.log" for number in range(count)]
        self.processes = []
        for number, log in enumerate(self.logs):
            member = ["--multihost", f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
            member.append(f"--process_id={number}")
            with log.open("ab") as stream:
                mine = [*arguments, *(own or {}).get(number, ()), *(member if count > 1 else [])]
                command = [sys.executable, *program, *mine]
                self.processes.append(
                    subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=folder)
                )

    def wait(self, seconds: float = 900) -> list[int]:
        """Returns the exit codes of all processes."""
        end = time.monotonic() + seconds
        return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]

    def wait_for(self, text: str, process: int = 0, seconds: float = 900) -> None:
        """Waits until a process has printed a text."""
        end = time.monotonic() + seconds
        while text not in self.output(process):
            if self.processes[process].poll() is not None or time.monotonic() > end:
                raise AssertionError(f"process {process} did not print {text!r}:\n{self.output(process)}")
            time.sleep(0.02)

    def output(self, process: int = 0) -> str:
        """Returns what a process has printed so far."""
        return self.logs[process].read_text(errors="replace")

    def end(self) -> None:
        """Kills what is left."""
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def job(folder: pathlib.Path, count: int, arguments: Sequence[str], **options: object) -> Iterator[Job]:
    """Starts a job, and leaves no process behind."""
    started = Job(folder, count, arguments, **options)
    try:
        yield started
    finally:
        started.end()


def rows(workdir: pathlib.Path) -> list[Mapping[str, float]]:
    """Returns the log rows of a run without their times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]
