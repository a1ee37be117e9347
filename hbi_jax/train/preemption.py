"""Graceful stopping: SIGTERM and Ctrl-C set a stop request, which the loop handles between two steps."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from hbi_jax.parallel.job import end

_log = logging.getLogger(__name__)


class PreemptedError(Exception):
    """The run stopped on request, after saving its state.

    Attributes:
      exit_code: 128 + the signal's number, as for a process that the signal ended, so that schedulers restart the job.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """A context in which SIGTERM and the first SIGINT request a stop instead of ending the process.

    A second SIGINT ends the process. In a job of several processes, JAX's own SIGTERM handler makes all processes agree
    on the step at which to stop, and the first SIGINT ends the process.
    """

    def __init__(self):
        self._signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:  # With several processes, our handler would replace JAX's.
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        _log.warning("%s received: saving after this step, then stopping", self._signal.name)
        if number == signal.SIGINT:
            previous = self._previous[signal.SIGINT]
            # A script's background jobs inherit an ignored SIGINT; the second one kills them too.
            signal.signal(signal.SIGINT, signal.default_int_handler if previous == signal.SIG_IGN else previous)

    def at(self, step: int) -> bool:
        """Returns whether to stop at this step; all processes of a job get the same answer."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code for a process that stops on this request."""
        return 128 + (self._signal or signal.SIGTERM)


@contextlib.contextmanager
def stop_on_sigterm(reason: str) -> Iterator[None]:
    """In a job of several processes, ends all of them on a SIGTERM, which JAX otherwise keeps for the training loop.

    Args:
      reason: What was stopped, and the remedy.
    """
    if jax.process_count() == 1:
        yield
        return
    code = 128 + signal.SIGTERM
    previous = signal.signal(signal.SIGTERM, lambda number, frame: end(f"SIGTERM received: {reason}", code))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
