"""A watchdog for training: a process that makes no progress for too long says where it hangs, and ends its job."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable

from hbi_jax.parallel.job import end

# Seconds in which every process of a job prints its own stack traces before the first one ends the job.
_TRACE_SECONDS = 2.0
_active: "Watchdog | None" = None


class Watchdog:
    """A context in which `beat` has to be called every few minutes, or the process and its job end.

    Args:
      minutes: The longest time between two beats; 0: no limit.
      on_stall: Ends the process, given a reason and an exit code.
    """

    def __init__(self, minutes: float, on_stall: Callable[[str, int], None] = end):
        self._seconds, self._on_stall = 60 * minutes, on_stall
        self._last, self._doing = time.monotonic(), "starting"
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        global _active
        _active = self
        if self._seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        global _active
        _active = None
        self._done.set()

    def beat(self, doing: str | None = None) -> None:
        """Notes that there is progress.

        Args:
          doing: What comes next, for the message; None: as before.
        """
        self._last, self._doing = time.monotonic(), doing or self._doing

    def _watch(self) -> None:
        while not self._done.wait(max(0.01, min(10.0, self._last + self._seconds - time.monotonic()))):
            idle = time.monotonic() - self._last
            if idle >= self._seconds:
                print(f"no progress for {idle / 60:.1f} minutes ({self._doing}); stack traces:", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(_TRACE_SECONDS)
                self._on_stall(
                    f"no progress for {idle / 60:.1f} minutes ({self._doing}), longer than config.train.stall_minutes="
                    f"{self._seconds / 60:g}; the stack traces above show where it hangs. Run the same command again "
                    "to resume, with a larger value if nothing hangs",
                    1,
                )
                return


def beat() -> None:
    """Notes progress for the watchdog of this process, if there is one."""
    if _active is not None:
        _active.beat()
