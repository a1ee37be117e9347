"""The training loop, written once for every task: steps, logs, validation, checkpoints, stopping and resuming."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int, PyTree

from hbi_jax.train.checkpoint import Checkpoints
from hbi_jax.train.config import TrainConfig
from hbi_jax.train.preemption import PreemptedError, StopRequest
from hbi_jax.train.state import TrainState
from hbi_jax.train.step import Scalars
from hbi_jax.train.watchdog import Watchdog
from hbi_jax.train.window import Window
from hbi_jax.train.writers import MetricWriter


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """Step count and timings of a call of `train`.

    Attributes:
      steps: Updates made by this call.
      seconds: Wall time, validation and checkpoints included.
      step_seconds: Wall time without validation.
      wait_seconds: The part of `step_seconds` spent waiting for data.
      skipped: Steps of the whole run that were skipped because something was not finite.
    """

    steps: int
    seconds: float
    step_seconds: float
    wait_seconds: float
    skipped: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """The task-specific parts of the loop.

    Attributes:
      step_fn: The compiled step.
      make_batches: Maps the number of completed steps to an iterator over the following batches, each with the record
        indices of its rows. The loop closes the iterator.
      put_batch: Maps this process's rows to the global batch on the devices. A thread makes each batch and puts it on
        the devices while they compute the step before.
      describe_batch: Names the videos of the global batch of a step, for messages.
      validate: Maps parameters to metrics.
      schedules: Learning rates to log, by name, as functions of the number of updates.
      agree: Called before each log row, at the same steps on all processes; exchanges and checks what each has found.
      facts: Returns what a checkpoint records besides the loop's own progress, with a JSON form.
    """

    step_fn: Callable[[TrainState, PyTree], tuple[TrainState, Scalars]]
    make_batches: Callable[[int], Iterator[tuple[Int[np.ndarray, " b"], PyTree]]]
    put_batch: Callable[[PyTree], PyTree]
    describe_batch: Callable[[int], str]
    validate: Callable[[PyTree], Mapping[str, float]]
    schedules: Mapping[str, Callable[[int], float]]
    agree: Callable[[], None] = lambda: None
    facts: Callable[[], Mapping[str, Any]] = dict


def train(
    job: Job,
    state: TrainState,
    config: TrainConfig,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    progress: Mapping[str, Any] | None = None,
) -> tuple[TrainState, TrainSummary]:
    """Trains from `state.step` to `config.num_steps`.

    The result depends only on the state and the step numbers, so a resumed run ends with the same state and the same
    log rows as an uninterrupted one. Validation runs every `eval_every` steps and at the end. A checkpoint is saved
    every `checkpoint_every` steps, after every validation and at the end. No state is saved after a step whose loss,
    gradient or update is not finite.

    Args:
      job: The task.
      state: The state to start from; donated.
      config: Length and intervals; `num_steps` must be set.
      checkpoints: Destination of the checkpoints.
      writer: Receives the scalars.
      progress: What the checkpoint that `state` comes from holds besides it (`Restored.progress`).

    Returns:
      The final state, and a summary of this call.

    Raises:
      NonFiniteError: If a loss, gradient or update is NaN or infinite, and `skip_nonfinite` such steps were skipped.
      PreemptedError: If a signal requested a stop; the state is saved.
      CheckpointError: If saving failed.
    """
    start, begun = int(state.step), time.perf_counter()
    waited = validated = 0.0
    window = Window(job.describe_batch, config.skip_nonfinite, progress)
    with (
        Watchdog(config.stall_minutes) as watchdog,
        StopRequest() as stop_request,
        contextlib.closing(job.make_batches(start)) as batches,
        ThreadPoolExecutor(1) as ahead,
    ):

        def put_next() -> PyTree:
            return job.put_batch(next(batches)[1])

        placed = ahead.submit(put_next)
        for step in range(start + 1, config.num_steps + 1):
            watchdog.beat(f"step {step}")
            before = time.perf_counter()
            batch = placed.result()
            waited += time.perf_counter() - before
            last = step == config.num_steps
            if not last:
                placed = ahead.submit(put_next)
            state, scalars = job.step_fn(state, batch)
            window.add(step, scalars)

            stop = stop_request.at(step)
            eval_due = last or (config.eval_every > 0 and step % config.eval_every == 0)
            row_due = eval_due or step % config.checkpoint_every == 0 or step % config.log_every == 0
            if row_due:
                job.agree()
                averages = window.flush()
                updates = step - len(window.skipped)
                rates = {name: float(schedule(updates - 1)) for name, schedule in job.schedules.items()}
                writer.write_scalars(step, {**averages, **rates})
            metrics = None
            if eval_due:
                before = time.perf_counter()
                watchdog.beat(f"validation after step {step}")
                metrics = job.validate(state.params)
                validated += time.perf_counter() - before
                if metrics:
                    writer.write_scalars(step, {f"val/{name}": value for name, value in metrics.items()})
            if eval_due or stop or step % config.checkpoint_every == 0:
                watchdog.beat(f"saving step {step}")
                writer.flush()
                checkpoints.save(state, metrics, {**job.facts(), **window.progress()})
            if stop and not last:
                checkpoints.wait()
                raise PreemptedError(
                    f"stopped at step {step} of {config.num_steps} as asked; the state is saved: "
                    "run the same command again to resume",
                    stop_request.exit_code,
                )
    checkpoints.wait()
    seconds = time.perf_counter() - begun
    summary = TrainSummary(config.num_steps - start, seconds, seconds - validated, waited, tuple(window.skipped))
    return state, summary
