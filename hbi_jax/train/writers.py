"""Metric writers: JSONL file, TensorBoard events, console, several at once.

Each takes `write_scalars(step, scalars)`, the signature of clu's writers, so that one of those can be passed
instead. Names are written as they are given (`loss/entity/contrastive`, `val/t2v/R@1`).
"""

import collections
import io
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from hbi_jax.commands.progress import format_duration, write_now

# A number, or a numpy or jax array that holds one.
Scalar = Any

# What the console shows of a row, in this order, where the row has it.
CONSOLE_NAMES = (
    "loss/total",
    "loss/entity/contrastive",
    "loss/entity/interaction",
    "val/t2v/R@1",
    "val/v2t/R@1",
    "val/Rsum",
)


@runtime_checkable
class MetricWriter(Protocol):
    """What the training loop needs of a writer."""

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes the values of one step."""

    def flush(self) -> None:
        """Brings everything written so far to where readers see it."""

    def close(self) -> None:
        """Flushes and lets go of files."""


@runtime_checkable
class ResumableWriter(Protocol):
    """A writer whose record outlives the process."""

    def truncate_after(self, step: int) -> None:
        """Takes back what was written for later steps: a resumed run writes them again."""


class JsonlWriter:
    """Appends one JSON object a row: `{"step": ..., "time": seconds since 1970, name: value, ...}`.

    Every row is in the file, whole, when `write_scalars` returns. A value that is not finite becomes null:
    JSON knows no NaN. A last line that a killed process left half-written is removed when the file is opened.

    Args:
      path: The file; it and its folder are made where they are missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        if not self._path.read_bytes().endswith(b"\n"):
            self._rewrite(lambda row: True)

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Appends a row.

        Raises:
          ValueError: A metric is named `step` or `time`, or the step is negative.
        """
        taken = {"step", "time"} & set(scalars)
        if taken:
            raise ValueError(
                f"scalars holds the name {sorted(taken)[0]!r}, which the row itself uses; wanted another "
                "name, such as 'optimizer/step'."
            )
        if step < 0:
            raise ValueError(f"step={step} is negative; count the steps from 0.")
        values = {name: _number(value) for name, value in scalars.items()}
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Drops the rows of later steps, so that a resumed run's file equals an uninterrupted one's.

        The times differ, nothing else.

        Args:
          step: The last step to keep: the one that the run resumes from.
        """
        self._rewrite(lambda row: row["step"] <= step)

    def flush(self) -> None:
        """Asks the system to put the rows on the disk itself."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Replaces the file, in one go, by its whole rows that `keep` wants."""
        lines = self._path.read_bytes().splitlines()
        kept = [line for line in lines if (row := _parse_row(line)) is not None and keep(row)]
        beside = self._path.with_name(self._path.name + ".tmp")
        beside.write_bytes(b"".join(line + b"\n" for line in kept))
        os.replace(beside, self._path)
        self._file.close()
        self._file = self._path.open("ab")


class TensorBoardWriter:
    """Writes TensorBoard event files, without TensorFlow, one event a call.

    Args:
      folder: Where the event files go; several runs of one job share it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # The file's name has whole seconds; a job restarted within one must not overwrite its own file.
        self._events = EventsWriter(str(self._folder / "events"), filename_suffix=f".{time.time_ns()}")

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes the values as one event."""
        values = [Summary.Value(tag=name, simple_value=_number(value)) for name, value in scalars.items()]
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def truncate_after(self, step: int) -> None:
        """Tells TensorBoard to hide what earlier event files hold of later steps.

        Args:
          step: The last step to keep.
        """
        restart = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def flush(self) -> None:
        """Brings the events to the disk."""
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._events.close()


class ConsoleWriter:
    """One line a call: step, percent, chosen values, steps a second, time to go.

    The rate is that of the last ten calls, so that compilation and checkpoints fade from it.

    Args:
      total_steps: Step at which training ends.
      names: Which values to show, in order, where a call has them.
      stream: Where the lines go; standard error if None.
      clock: Seconds, from any origin.
    """

    def __init__(
        self,
        total_steps: int,
        names: Sequence[str] = CONSOLE_NAMES,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_steps
        self._names = tuple(names)
        self._stream = stream
        self._clock = clock
        self._marks: collections.deque[tuple[int, float]] = collections.deque(maxlen=10)

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Prints the line."""
        self._marks.append((step, self._clock()))
        width = len(str(self._total))
        parts = [f"step {step:>{width}}/{self._total} {100 * step / max(self._total, 1):5.1f}%"]
        parts += [f"{_short(name)} {_shown(scalars[name])}" for name in self._names if name in scalars]
        (first_step, first_time), (last_step, last_time) = self._marks[0], self._marks[-1]
        if last_step > first_step and last_time > first_time:
            rate = (last_step - first_step) / (last_time - first_time)
            parts.append(f"{rate:.2f} steps/s")
            parts.append(f"ETA {format_duration((self._total - step) / rate)}")
        write_now(self._stream, "  ".join(parts) + "\n")

    def flush(self) -> None:
        """Every line is out already."""

    def close(self) -> None:
        """The stream stays open: it is not ours."""


class MultiWriter:
    """Passes everything on to several writers, in order.

    Args:
      writers: The writers; closing closes them all, and the first error of a writer is raised after that.
    """

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes the values with every writer; each value is fetched from its device once."""
        values = {name: _number(value) for name, value in scalars.items()}
        for writer in self._writers:
            writer.write_scalars(step, values)

    def truncate_after(self, step: int) -> None:
        """Takes back later steps where a writer keeps a record."""
        for writer in self._writers:
            if isinstance(writer, ResumableWriter):
                writer.truncate_after(step)

    def flush(self) -> None:
        """Flushes every writer."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes every writer, also after one has failed."""
        errors = []
        for writer in self._writers:
            try:
                writer.close()
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _number(value: Scalar) -> float:
    """The value as a Python number; an array must hold exactly one."""
    return float(getattr(value, "item", lambda: value)())


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """The row of a line, or None where the line is broken."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _short(name: str) -> str:
    """A metric's name for a narrow line: the total loss is the loss, other losses lose their first part."""
    return "loss" if name == "loss/total" else name.removeprefix("loss/")


def _shown(value: Scalar) -> str:
    """Three decimals for small values, fewer for big ones, e notation where three decimals show nothing."""
    number = _number(value)
    if number == 0 or not math.isfinite(number):
        return f"{number:.3f}"
    if abs(number) < 1e-3:
        return f"{number:.1e}"
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}"
