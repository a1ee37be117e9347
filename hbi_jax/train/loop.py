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

# Steps that may be queued on the devices: enough that they never wait for the host, few enough that their batches
# take little memory and that a request to stop is soon honoured.
MAX_QUEUED = 2


class NonFiniteError(ValueError):
    """The loss is no number any more: names the step and the videos of its batch."""


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """What a call of `train` did.

    Attributes:
      steps: Updates made by this call.
      seconds: Wall time of them, validation and checkpoints included.
      step_seconds: Wall time without validation.
      wait_seconds: The share of it that was spent waiting for data.
    """

    steps: int
    seconds: float
    step_seconds: float
    wait_seconds: float


class _Window:
    """Scalars since the last log row: averaged on the device, fetched once."""

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
        """The averages; raises NonFiniteError at the first step whose loss is no finite number."""
        for step, record_index, loss in self._losses:
            if not jnp.isfinite(loss):
                raise NonFiniteError(
                    f"loss/total is {float(loss)} at step {step}; its batch held {self._describe_rows(record_index)}. "
                    "Nothing was saved after it: lower config.optimizer.learning_rate, or look at these videos, and "
                    "start the same command again to go on from the last checkpoint"
                )
        averages = {name: float(average.compute()) for name, average in (self._averages or {}).items()}
        self._clear()
        return averages


@dataclasses.dataclass(frozen=True)
class Job:
    """What a task gives the loop.

    Attributes:
      step_fn: The compiled step.
      make_batches: From a number of steps done to the batches that follow, each with the records of its rows; closed
        when done.
      put_batch: From this process's rows to the global batch on the devices.
      describe_rows: Names the videos of a batch, for messages.
      validate: From parameters to metrics.
      schedules: Learning rates to log: name to function of the updates made.
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
    """Goes on from `state.step` to `config.num_steps`.

    What it computes is a function of the state and of the step numbers alone, so a run that was stopped and goes
    on ends where one that was not ends. Validation happens every `eval_every` steps and at the end, a checkpoint
    every `checkpoint_every` steps, with each validation and at the end.

    Args:
      job: The task.
      state: Where to start; donated.
      config: When to do what; `num_steps` is set.
      checkpoints: Where to save.
      writer: Gets the scalars.

    Raises:
      NonFiniteError: If the loss is NaN or infinite.
      PreemptedError: If a signal asked to stop; everything is saved.
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
                    f"stopped at step {step} of {config.num_steps} as asked; it is saved: "
                    "start the same command again to go on",
                    stop_request.exit_code,
                )
    checkpoints.wait()
    seconds = time.perf_counter() - begun
    return state, TrainSummary(config.num_steps - start, seconds, seconds - validated, waited)
