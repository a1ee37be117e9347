"""The work folder of a run: opening it, and comparing its configuration with one that resumes or evaluates the run."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from hbi_jax.fields import ConfigError, flat, plain
from hbi_jax.files import replace_file
from hbi_jax.parallel.processes import barrier
from hbi_jax.tasks.config import COMPUTE_FIELDS, FREE_FIELDS, Config, read_config, to_json
from hbi_jax.tasks.task import Task
from hbi_jax.train.optimizer import make_schedule

_log = logging.getLogger(__name__)

CONFIG = "config.json"

# Fields of the model that may differ in an evaluation.
FREE_MODEL_FIELDS = (*COMPUTE_FIELDS, "model.matmul_precision")
# Fields that an evaluation may change, with other results than those of the run.
TOLD_FIELDS = (
    "data.num_words",
    "data.num_frames",
    "data.frames_per_second",
    "data.square_pixels",
    "eval.level_rates",
)
# Fields that determine which state an optimizer keeps.
_OPTIMIZER_STATE_FIELDS = ("optimizer.name", "optimizer.frozen")


def open_workdir(path: str) -> epath.Path:
    """Returns the folder at `path`, creating it if needed; `~` is the home folder.

    Raises:
      ConfigError: If the folder cannot be written to.
    """
    folder = epath.Path(path).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--workdir={path}: wanted a folder that can be written ({error}); choose another") from error
    return folder


def claim_workdir(task: Task, num_rows: int, start: int | None) -> None:
    """Writes the configuration into the task's work folder, after all processes have compared it with the one there.

    Args:
      task: The task.
      num_rows: Rows of an epoch of training, which determine the length of a run in epochs.
      start: The step that training resumes from, or None if there is no checkpoint.

    Raises:
      ConfigError: If the run was started with a different configuration.
    """
    file = task.workdir / CONFIG
    if start is not None and file.exists():
        begun = read_config(file)
        _check_same(task.config, begun, task.workdir)
        _check_length(task, begun, num_rows, start)
        task.check_workdir(task.workdir)
    barrier("the work folder is checked")
    if jax.process_index() == 0:
        task.claim_workdir()
        replace_file(file, to_json(task.config))


def check_evaluated(config: Config, workdir: epath.Path) -> list[str]:
    """Compares a configuration with that of the run whose checkpoint it evaluates.

    Args:
      config: The configuration of the evaluation.
      workdir: The work folder of the checkpoint.

    Returns:
      Sentences on fields with which the results differ from those of the run.

    Raises:
      ConfigError: If the model differs: the parameters might fit, but their results would mean nothing.
    """
    file = workdir / CONFIG
    if not file.exists():
        return []
    told = []
    for name, ours, theirs in _differences(config, read_config(file)):
        if name.startswith("model.") and name not in FREE_MODEL_FIELDS and name != "model.dtype":
            raise ConfigError(
                f"config.{name}={ours!r}, but the checkpoint of {workdir} was trained with {theirs!r}; evaluate it "
                "with the model of its training"
            )
        if name in (*TOLD_FIELDS, "model.dtype"):
            told.append(f"Evaluated with config.{name}={ours!r}; the checkpoint was trained with {theirs!r}.")
    return told


def check_continued(config: Config, workdir: epath.Path) -> None:
    """Compares a configuration with that of the run whose model and optimizer it continues in another work folder.

    Args:
      config: The configuration of the new run.
      workdir: The work folder of the run that it continues.

    Raises:
      ConfigError: If the model differs, or the optimizer keeps another state.
    """
    check_evaluated(config, workdir)
    file = workdir / CONFIG
    for name, ours, theirs in _differences(config, read_config(file)) if file.exists() else ():
        if name in _OPTIMIZER_STATE_FIELDS:
            raise ConfigError(
                f"config.{name}={ours!r}, but the optimizer's state in {workdir} is of a run with {theirs!r}; use "
                "that, or take over the parameters only, with --config.init instead of --checkpoint"
            )


def _differences(config: Config, other: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yields the fields that differ: name, our value, the other value."""
    ours, theirs = (json.loads(json.dumps(flat(plain(each)))) for each in (config, other))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield name, ours.get(name), theirs.get(name)


def _check_same(config: Config, begun: Config, workdir: epath.Path) -> None:
    """Raises if a field outside `FREE_FIELDS` differs from the configuration that the run was started with."""
    free = tuple(f"{field}." for field in (*FREE_FIELDS, "train.num_steps", "train.num_epochs"))
    for name, ours, theirs in _differences(config, begun):
        if not f"{name}.".startswith(free):
            raise ConfigError(
                f"config.{name}={ours!r}, but --workdir={workdir} was started with {theirs!r}; use that, or another "
                "--workdir"
            )


def _check_length(task: Task, begun: Config, num_rows: int, start: int) -> None:
    """Raises if a run is shortened. Says what it means for the learning rate if it is lengthened."""
    ours, theirs = (each.train.length(num_rows) for each in (task.config, begun))
    field = "num_steps" if task.config.train.num_steps else "num_epochs"
    if ours < theirs:
        raise ConfigError(
            f"config.train.{field}={getattr(task.config.train, field)} makes {ours} steps, but "
            f"--workdir={task.workdir} was started with {theirs}; a run can be lengthened, not shortened: use that, or "
            "another --workdir"
        )
    if ours > theirs and start:
        settings = task.config.optimizer
        before, after = (
            float(make_schedule(settings, settings.learning_rate, steps)(start - 1 if steps == theirs else start))
            for steps in (theirs, ours)
        )
        _log.warning(
            "the run is lengthened from %d to %d steps. Its schedule now ends there: the learning rate of the new "
            "modules was %.3g at step %d and continues with %.3g",
            theirs,
            ours,
            before,
            start,
            after,
        )
