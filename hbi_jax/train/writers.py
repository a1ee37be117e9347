"""Metric writers: JSONL file, TensorBoard events, console, and a combination of several.

All have the method `write_scalars(step, scalars)` with the signature of clu's writers, so clu's writers can be used
too. Names are written as given (`loss/entity/contrastive`, `val/t2v/R@1`).
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

# A number, or a numpy or jax array with one element.
Scalar = Any

# Scalars that the console shows, in this order, if the row has them.
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
    """The interface that the training loop requires of a writer."""

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes the scalars of one step."""

    def flush(self) -> None:
        """Makes everything written so far visible to readers."""

    def close(self) -> None:
        """Flushes and closes files."""


@runtime_checkable
class ResumableWriter(Protocol):
    """A writer whose output outlives the process."""

    def truncate_after(self, step: int) -> None:
        """Drops rows after `step`; the resumed run will write them again."""


class JsonlWriter:
    """A writer that appends one JSON object per row: `{"step": ..., "time": seconds since 1970, name: value, ...}`.

    When `write_scalars` returns, the complete row is in the file. Values that are not finite become null, because JSON
    has no NaN. If a killed process left an incomplete last line, opening the file removes it.

    Args:
      path: The file; it and its folder are created if needed.
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
          ValueError: If a metric is named `step` or `time`, or the step is negative.
        """
        taken = {"step", "time"} & set(scalars)
        if taken:
            raise ValueError(
                f"scalars holds the name {sorted(taken)[0]!r}, which is reserved for the row itself; use another "
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
        """Drops the rows of later steps, so that a resumed run does not write them twice.

        The file of a resumed run differs from that of an uninterrupted one in the times only.

        Args:
          step: The last step to keep, from which the run resumes.
        """
        self._rewrite(lambda row: row["step"] <= step)

    def flush(self) -> None:
        """Flushes the rows to disk (fsync)."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Atomically replaces the file by its complete rows for which `keep` is true."""
        lines = self._path.read_bytes().splitlines()
        kept = [line for line in lines if (row := _parse_row(line)) is not None and keep(row)]
        beside = self._path.with_name(self._path.name + ".tmp")
        beside.write_bytes(b"".join(line + b"\n" for line in kept))
        os.replace(beside, self._path)
        self._file.close()
        self._file = self._path.open("ab")


class TensorBoardWriter:
    """A writer of TensorBoard event files, without TensorFlow; one event per call.

    Args:
      folder: Folder of the event files; a job and its restarts share it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # File names have a resolution of one second; a job restarted within a second must not overwrite its own file.
        self._events = EventsWriter(str(self._folder / "events"), filename_suffix=f".{time.time_ns()}")

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes the values as one event."""
        values = [Summary.Value(tag=name, simple_value=_number(value)) for name, value in scalars.items()]
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def truncate_after(self, step: int) -> None:
        """Tells TensorBoard to hide the later steps of earlier event files.

        Args:
          step: The last step to keep.
        """
        restart = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def flush(self) -> None:
        """Flushes the events to disk."""
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._events.close()


class ConsoleWriter:
    """A writer that prints one line per call: step, percent, chosen values, steps per second, remaining time.

    The rate is measured over the last ten calls, so that compilation and checkpoints affect it only for a while.

    Args:
      total_steps: Step at which training ends.
      names: Values to show, in this order, if the call has them.
      stream: Output stream; standard error if None.
      clock: Returns seconds from any origin.
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
        """Does nothing: every line is already written."""

    def close(self) -> None:
        """Does nothing: the caller owns the stream."""


class MultiWriter:
    """A writer that forwards every call to several writers, in order.

    Args:
      writers: The writers. `close` closes all of them and then raises the first error, if any.
    """

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Writes the values with every writer; each value is fetched from its device once."""
        values = {name: _number(value) for name, value in scalars.items()}
        for writer in self._writers:
            writer.write_scalars(step, values)

    def truncate_after(self, step: int) -> None:
        """Drops later steps from the writers whose output outlives the process."""
        for writer in self._writers:
            if isinstance(writer, ResumableWriter):
                writer.truncate_after(step)

    def flush(self) -> None:
        """Flushes every writer."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes every writer, even if closing one fails."""
        errors = []
        for writer in self._writers:
            try:
                writer.close()
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _number(value: Scalar) -> float:
    """Returns the value as a Python float; an array must have exactly one element."""
    return float(getattr(value, "item", lambda: value)())


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line, or None if the line is broken."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _short(name: str) -> str:
    """Returns a metric's name for a narrow line: `loss` for the total loss, otherwise without the prefix `loss/`."""
    return "loss" if name == "loss/total" else name.removeprefix("loss/")


def _shown(value: Scalar) -> str:
    """Formats a value with three decimals, one decimal if it is large, or in e notation if it is below 0.001."""
    number = _number(value)
    if number == 0 or not math.isfinite(number):
        return f"{number:.3f}"
    if abs(number) < 1e-3:
        return f"{number:.1e}"
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}"
