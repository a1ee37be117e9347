"""Progress of long work on a console or in a log: items done, rate and remaining time."""

import io
import math
import sys
import time
from collections.abc import Callable


class Progress:
    """A progress display that counts the items of long work, such as rendering or encoding.

    On a terminal it rewrites one line, at most ten times a second; elsewhere (in a log file) it prints a new line
    every `interval` seconds. It is a context manager; leaving it prints the last line with the time taken.

        with Progress(len(videos), "encode videos") as progress:
            for video in videos:
                ...
                progress.update()

    Args:
      total: The number of items.
      label: A description of the work.
      stream: The output stream; None for standard error.
      interval: Seconds between lines if the stream is not a terminal.
      shown: Whether to print anything.
      clock: A clock that returns seconds from any origin.
    """

    def __init__(
        self,
        total: int,
        label: str,
        stream: io.TextIOBase | None = None,
        interval: float = 10.0,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._label = label
        self._stream = stream
        self._shown = shown
        self._clock = clock
        self._terminal = bool(getattr(stream or sys.stderr, "isatty", lambda: False)())
        self._interval = 0.1 if self._terminal else interval
        self._start = self._last = clock()
        self._done = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self.close(completed=error_type is None)

    def update(self, count: int = 1) -> None:
        """Counts `count` more items as done."""
        self._done += count
        now = self._clock()
        if now - self._last < self._interval:
            return
        self._last = now
        elapsed = now - self._start
        rate = self._done / elapsed if elapsed > 0 else 0.0
        to_go = format_duration((self._total - self._done) / rate) if rate > 0 else "?"
        self._print(f"{self._counts()}  {rate:.1f}/s  ETA {to_go}", final=False)

    def close(self, completed: bool = True) -> None:
        """Prints the last line.

        Args:
          completed: False if the work was aborted.
        """
        seconds = self._clock() - self._start
        rate = f" ({self._done / seconds:.1f}/s)" if seconds > 0 else ""
        word = "in" if completed else "stopped after"
        self._print(f"{self._counts()}  {word} {format_duration(seconds)}{rate}", final=True)

    def _counts(self) -> str:
        percent = 100 * self._done / self._total if self._total else 100.0
        return f"{self._label} {self._done}/{self._total} {percent:5.1f}%"

    def _print(self, text: str, final: bool) -> None:
        if not self._shown:
            return
        # \x1b[K clears the rest of a longer line before.
        start, end = ("\r", "\x1b[K\n" if final else "\x1b[K") if self._terminal else ("", "\n")
        write_now(self._stream, start + text + end)


def format_duration(seconds: float | int) -> str:
    """Formats a time span as `0:07` or `12:34` (m:ss), and from one hour on as `1:02 h` (h:mm).

    Args:
      seconds: The span; a negative span counts as 0.
    """
    whole = max(0, math.ceil(seconds))
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def write_now(stream: io.TextIOBase | None, text: str) -> None:
    """Writes and flushes. None stands for the current standard error, which may have been replaced."""
    target = sys.stderr if stream is None else stream
    target.write(text)
    target.flush()
