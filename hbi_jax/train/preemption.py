"""Stopping when asked: SIGTERM and Ctrl-C become a request that the loop honours between two steps."""

import logging
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)


class PreemptedError(Exception):
    """The run was asked to stop and did, with everything saved.

    Attributes:
      exit_code: 128 + the signal's number, as a process has that the signal ended: schedulers then start it again.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """While entered, SIGTERM and the first SIGINT are noted instead of obeyed; a second SIGINT kills.

    In a group of processes JAX's own handler of SIGTERM agrees with the others on a step to stop at, and SIGINT kills.
    """

    def __init__(self):
        self._signal: signal.Signals | None = None
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:  # A handler of ours would silence JAX's.
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
        """Whether to stop at this step: the same answer on every process of a group."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """Of the process that stops for this request."""
        return 128 + (self._signal or signal.SIGTERM)
