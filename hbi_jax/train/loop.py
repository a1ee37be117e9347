"""The training loop, written once for every task: steps, logs, validation, checkpoints, stopping and resuming."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Int, PyTree

from hbi_jax.train.checkpoint import Checkpoints
from hbi_jax.train.config import TrainConfig
from hbi_jax.train.preemption import PreemptedError, StopRequest
from hbi_jax.train.state import TrainState
from hbi_jax.train.step import Scalars
from hbi_jax.train.writers import MetricWriter

# Number of steps that may be queued on the devices: enough to keep them from waiting for the host, few enough that the
# queued batches take little memory and a stop request takes effect soon.
MAX_QUEUED = 2


class NonFiniteError(ValueError):
    """A loss that is NaN or infinite. The message names the step and the videos of its batch on this process."""


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """Step count and timings of a call of `train`.

    Attributes:
      steps: Updates made by this call.
      seconds: Wall time, validation and checkpoints included.
      step_seconds: Wall time without validation.
      wait_seconds: The part of `step_seconds` spent waiting for data.
    """

    steps: int
    seconds: float
    step_seconds: float
    wait_seconds: float


class _Window:
    """The scalars since the last log row; averaged on the device, fetched once."""

    def __init__(self, describe_rows: Callable[[Int[np.ndarray, " b"]], str]):
        self._describe_rows = describe_rows
        self._add = jax.jit(self._merge)
        self._clear()

    def _clear(self) -> None:
        self._averages: dict[str, clu_metrics.Average] | None = None
        self._losses: list[tuple[int, Int[np.ndarray, " b"], jax.Array]] = []

    @staticmethod
    def _merge(averages: dict[str, clu_metrics.Average] | None, scalars: Scalars) -> dict[str, clu_metrics.Average]:
        new = {name: clu_metrics.Average.from_model_output(value) for name, value in scalars.items()}
        return new if averages is None else {name: averages[name].merge(new[name]) for name in new}

    def add(self, step: int, record_index: Int[np.ndarray, " b"], scalars: Scalars) -> None:
        self._averages = self._add(self._averages, scalars)
        self._losses.append((step, record_index, scalars["loss/total"]))
        if len(self._losses) > MAX_QUEUED:
            jax.block_until_ready(self._losses[-1 - MAX_QUEUED][2])

    def flush(self) -> dict[str, float]:
        """Returns the averages and clears the window.

        Raises:
          NonFiniteError: If a loss is not finite; names the first such step.
        """
        for step, record_index, loss in self._losses:
            if not jnp.isfinite(loss):
                raise NonFiniteError(
                    f"loss/total is {float(loss)} at step {step}; its batch held {self._describe_rows(record_index)}. "
                    "This step and later ones were not saved: lower config.optimizer.learning_rate or check these "
                    "videos, then run the same command again to resume from the latest checkpoint. If gradient_norm "
                    "is not finite in an earlier log row, that step is the cause, and a checkpoint saved at or after "
                    "it is unusable"
                )
        averages = {name: float(average.compute()) for name, average in (self._averages or {}).items()}
        self._clear()
        return averages


@dataclasses.dataclass(frozen=True)
class Job:
    """The task-specific parts of the loop.

    Attributes:
      step_fn: The compiled step.
      make_batches: Maps the number of completed steps to an iterator over the following batches, each with the record
        indices of its rows; the loop closes the iterator.
      put_batch: Maps this process's rows to the global batch on the devices.
      describe_rows: Names the videos of a batch, for messages.
      validate: Maps parameters to metrics.
      schedules: Learning rates to log, by name, as functions of the number of updates.
    """

    step_fn: Callable[[TrainState, PyTree], tuple[TrainState, Scalars]]
    make_batches: Callable[[int], Iterator[tuple[Int[np.ndarray, " b"], PyTree]]]
    put_batch: Callable[[PyTree], PyTree]
    describe_rows: Callable[[Int[np.ndarray, " b"]], str]
    validate: Callable[[PyTree], Mapping[str, float]]
    schedules: Mapping[str, Callable[[int], float]]


def train(
    job: Job, state: TrainState, config: TrainConfig, checkpoints: Checkpoints, writer: MetricWriter
) -> tuple[TrainState, TrainSummary]:
    """Trains from `state.step` to `config.num_steps`.

    The result depends only on the state and the step numbers, so a resumed run ends with the same state as an
    uninterrupted one. Validation runs every `eval_every` steps and at the end. A checkpoint is saved every
    `checkpoint_every` steps, after every validation and at the end.

    Args:
      job: The task.
      state: The state to start from; donated.
      config: Length and intervals; `num_steps` must be set.
      checkpoints: Destination of the checkpoints.
      writer: Receives the scalars.

    Returns:
      The final state, and a summary of this call.

    Raises:
      NonFiniteError: If the loss is NaN or infinite.
      PreemptedError: If a signal requested a stop; the state is saved.
      CheckpointError: If saving failed.
    """
    start, begun = int(state.step), time.perf_counter()
    waited = validated = 0.0
    window = _Window(job.describe_rows)
    with StopRequest() as stop_request, contextlib.closing(job.make_batches(start)) as batches:
        for step in range(start + 1, config.num_steps + 1):
            before = time.perf_counter()
            record_index, batch = next(batches)
            waited += time.perf_counter() - before
            state, scalars = job.step_fn(state, job.put_batch(batch))
            window.add(step, record_index, scalars)

            stop, last = stop_request.at(step), step == config.num_steps
            eval_due = last or (config.eval_every > 0 and step % config.eval_every == 0)
            save_due = eval_due or stop or step % config.checkpoint_every == 0
            if save_due or step % config.log_every == 0:
                averages = window.flush()
                rates = {name: float(schedule(step - 1)) for name, schedule in job.schedules.items()}
                writer.write_scalars(step, {**averages, **rates})
            metrics = None
            if eval_due:
                before = time.perf_counter()
                metrics = job.validate(state.params)
                validated += time.perf_counter() - before
                writer.write_scalars(step, {f"val/{name}": value for name, value in metrics.items()})
            if save_due:
                writer.flush()
                checkpoints.save(state, metrics)
            if stop and not last:
                checkpoints.wait()
                raise PreemptedError(
                    f"stopped at step {step} of {config.num_steps} as asked; the state is saved: "
                    "run the same command again to resume",
                    stop_request.exit_code,
                )
    checkpoints.wait()
    seconds = time.perf_counter() - begun
    return state, TrainSummary(config.num_steps - start, seconds, seconds - validated, waited)
