"""Runs that are killed at random moments and started again until they end. Python and the library are loaded once.

Every attempt is a process of its own, forked before JAX starts its devices, so that killing costs no imports.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

# Seconds within which the other processes of a job end after one was killed.
LIMIT = 20.0


class Kill(NamedTuple):
    """One kill.

    Attributes:
      seconds: After how many seconds of the attempt.
      stage: What the process was doing, by its last line.
      processes: The number of processes of the job, one of which was killed.
      survivors_s: How long the others took to end.
    """

    seconds: float
    stage: str
    processes: int
    survivors_s: float


class Run(NamedTuple):
    """What a run leaves that must not depend on kills.

    Attributes:
      digests: The digests of parameters and optimizer state of the last checkpoint.
      rows: The log, without times.
      report: Galleries, tables, data and protocol.
    """

    digests: dict
    rows: list
    report: dict


def outcome(workdir: pathlib.Path) -> Run:
    """Reads what a finished run has left."""
    checkpoints = workdir / "checkpoints"
    last = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    record = json.loads((checkpoints / str(last) / "record" / "metadata").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((workdir / "report.json").read_text())
    kept = {name: report[name] for name in ("galleries", "tables", "dataset", "unreadable", "protocol")}
    return Run(record["digests"], [{k: v for k, v in row.items() if k != "time"} for row in rows], kept)


def _child(arguments: Sequence[str], log: pathlib.Path) -> NoReturn:
    """Runs the command in this process, which was just forked."""
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.argv = ["main", *arguments]
    code = 1
    try:
        from hbi_jax import main

        main.run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def start(arguments: Sequence[str], folder: pathlib.Path, count: int = 1) -> list[int]:
    """Starts a job and returns the process ids."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for number in range(count):
        member = ["--multihost", f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
        member = [*member, f"--process_id={number}"] if count > 1 else []
        pid = os.fork()
        if not pid:
            _child([*arguments, *member], folder / f"{number}.log")
        pids.append(pid)
    return pids


def ended(pids: Sequence[int], seconds: float) -> Iterator[int]:
    """Yields the exit codes of processes that end in this time; kills the others."""
    limit = time.monotonic() + seconds
    for pid in pids:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                yield os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


def stage_of(log: pathlib.Path) -> str:
    """Names what a process was doing when it printed its last line."""
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace")
        for name, sign in (
            ("reporting", "the report is in"),
            ("evaluating", "encode texts, test"),
            ("validating or saving", "encode texts, val"),
            ("training", "step compiled in"),
            ("compiling", "parameters\n"),
        ):
            if sign in text:
                return name
    return "starting"


def killed_until_it_ends(
    arguments: Sequence[str], folder: pathlib.Path, seconds: float, rng: random.Random, kills: int, count: int = 1
) -> list[Kill]:
    """Starts a run again and again, killing it at most so many times; the last attempt may end.

    Args:
      arguments: The command line.
      folder: The folder of the logs.
      seconds: How long an attempt takes at most that is not killed: kills are spread over this time.
      rng: Draws the moments.
      kills: Number of kills, if the run does not end before.
      count: Number of processes, one of which is killed.

    Returns:
      The kills.

    Raises:
      AssertionError: If an attempt fails by itself, or other processes do not end after one was killed.
    """
    done = []
    while True:
        logs = folder / str(len(done))
        pids = start(arguments, logs, count)
        last = len(done) == kills
        moment = 1e9 if last else rng.uniform(0, seconds)
        begun, victim = time.monotonic(), rng.randrange(count)
        finished: dict[int, int] = {}
        while len(finished) < count and time.monotonic() - begun < moment:
            for pid in set(pids) - finished.keys():
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    finished[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        if len(finished) == count:
            texts = "".join(log.read_text(errors="replace")[-3000:] for log in sorted(logs.iterdir()))
            assert set(finished.values()) == {0}, f"exit codes {list(finished.values())}:\n{texts}"
            return done
        stage = stage_of(logs / f"{victim}.log")
        killed = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[victim], signal.SIGKILL)
        left = [pid for pid in pids if pid not in finished]
        list(ended(left, LIMIT if stage not in ("starting",) else 120))
        took = time.monotonic() - killed
        done.append(Kill(round(killed - begun, 2), stage, count, round(took, 2)))


def campaign(
    arguments: Sequence[str],
    folder: pathlib.Path,
    total: int,
    seed: int = 0,
    count: int = 1,
    each: int = 6,
    limit: float = float("inf"),
) -> tuple[list[Kill], list[str]]:
    """Kills runs `total` times altogether and compares each with one that nothing has disturbed.

    Args:
      arguments: The command line without `--workdir`.
      folder: Where everything is written.
      total: Number of kills.
      seed: Seed of the moments.
      count: Number of processes of a run.
      each: Kills of one run at most.
      limit: Seconds after which no other run is started.

    Returns:
      The kills, and what differed: empty if nothing did.
    """
    rng, seconds, limit = random.Random(seed), 0.0, time.monotonic() + limit
    # The first compiles, the second takes as long as those to come.
    for name in ("first", "whole"):
        begun = time.monotonic()
        killed_until_it_ends([*arguments, f"--workdir={folder / name}"], folder / "logs" / name, 1e9, rng, 0, count)
        seconds = time.monotonic() - begun
    wanted = outcome(folder / "whole")
    kills: list[Kill] = []
    different: list[str] = []
    number = 0
    while len(kills) < total and time.monotonic() < limit:
        workdir, logs = folder / f"run-{number}", folder / "logs" / f"run-{number}"
        few = min(each, total - len(kills))
        kills += killed_until_it_ends([*arguments, f"--workdir={workdir}"], logs, seconds, rng, few, count)
        found = outcome(workdir)
        different += [f"run {number}: {name}" for name in Run._fields if getattr(found, name) != getattr(wanted, name)]
        print(f"{len(kills)} kills of {total}, {number + 1} runs, {len(different)} differ", file=sys.stderr, flush=True)
        shutil.rmtree(workdir)
        number += 1
    return kills, different
