"""The scalars since the last log row: averaged on the device, and checked for values that are not finite."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hbi_jax.train.step import FAULT, FAULTS, Scalars

_log = logging.getLogger(__name__)

# Number of steps that may be queued on the devices: enough to keep them from waiting for the host, few enough that the
# queued batches take little memory and that a fault or a stop request takes effect soon.
MAX_QUEUED = 2


class NonFiniteError(ValueError):
    """A loss, gradient or update that is NaN or infinite. The message names the step and the videos of its batch."""


class Window:
    """The averages since the last log row, and the steps that were skipped so far.

    Attributes:
      skipped: The steps with a fault that were skipped.
    """

    def __init__(self, describe_batch: Callable[[int], str], skip: int = 0, progress: Mapping[str, Any] | None = None):
        """Starts where an earlier window of the run ended.

        Args:
          describe_batch: Names the videos of the global batch of a step, for messages.
          skip: Number of steps with a fault that the run may skip.
          progress: What `progress` returned when the checkpoint was saved that the run resumes from.
        """
        self._describe_batch, self._skip = describe_batch, skip
        self._add = jax.jit(_merge)
        progress = progress or {}
        self.skipped: list[int] = list(progress.get("skipped", []))
        self._queue: list[tuple[int, Scalars]] = []
        self._sums: Scalars | None = None
        self._count: Int[Array, ""] | int = 0
        if progress.get("count"):
            self._sums = {name: jnp.float32(value) for name, value in progress["sums"].items()}
            self._count = jnp.int32(progress["count"])

    def add(self, step: int, scalars: Scalars) -> None:
        """Adds the scalars of a step. Waits until all but the last few steps are done, and checks those.

        Raises:
          NonFiniteError: If a step has a fault and may not be skipped.
        """
        self._queue.append((step, {name: scalars[name] for name in (FAULT, "loss/total", "gradient_norm")}))
        # A step that is skipped is in no average.
        values = {name: value for name, value in scalars.items() if name != FAULT}
        self._sums, self._count = self._add(self._sums, self._count, values, scalars[FAULT])
        while len(self._queue) > MAX_QUEUED:
            self._check(*self._queue.pop(0))

    def check(self) -> None:
        """Waits for all steps and checks them.

        Raises:
          NonFiniteError: If a step has a fault and may not be skipped.
        """
        while self._queue:
            self._check(*self._queue.pop(0))

    def flush(self) -> dict[str, float]:
        """Returns the averages, after `check`, and starts anew. They are absent if all steps were skipped."""
        self.check()
        sums, count = jax.device_get((self._sums or {}, self._count))
        self._sums, self._count = None, 0
        return {name: float(value / count) for name, value in sums.items()} if count else {}

    def progress(self) -> dict[str, Any]:
        """Returns the sums since the last row and the skipped steps, with a JSON form, after `check`."""
        self.check()
        sums, count = jax.device_get((self._sums or {}, self._count))
        return {
            "sums": {name: float(value) for name, value in sums.items()},
            "count": int(count),
            "skipped": self.skipped,
        }

    def _check(self, step: int, scalars: Scalars) -> None:
        values = jax.device_get(scalars)
        fault = int(values[FAULT])
        if not fault:
            return
        # Later faults follow from the first.
        name = next(name for number, name in FAULTS.items() if fault & number)
        what = f"{name} is {values[name]}" if name in values else f"{name} is not finite"
        message = f"{what} at step {step}; its batch held {self._describe_batch(step)}"
        if len(self.skipped) < self._skip:
            self.skipped.append(step)
            _log.warning("%s. The step is skipped (%d of at most %d)", message, len(self.skipped), self._skip)
            return
        remedy = "config.train.skip_nonfinite=3 skips a few such steps"
        if self._skip:
            remedy = f"the run has skipped {self._skip} such steps, as many as config.train.skip_nonfinite allows"
        raise NonFiniteError(
            f"{message}. Nothing of this step or later was saved: lower config.optimizer.learning_rate or check these "
            f"videos, then run the same command again to resume from the latest checkpoint; {remedy}"
        )


def _merge(
    sums: Scalars | None, count: Int[Array, ""] | int, scalars: Scalars, fault: Float[Array, ""]
) -> tuple[dict[str, Float[Array, ""]], Int[Array, ""]]:
    good = fault == 0
    added = {name: jnp.where(good, value, 0).astype(jnp.float32) for name, value in scalars.items()}
    if sums is not None:
        added = {name: sums[name] + value for name, value in added.items()}
    return added, count + good.astype(jnp.int32)
