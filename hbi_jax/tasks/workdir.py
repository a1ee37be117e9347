"""The work folder of a run: opening it, and checking the configuration of a resumed run."""

import json

import jax
from etils import epath

from hbi_jax.fields import ConfigError, flat, plain
from hbi_jax.tasks.config import Config, read_config, to_json
from hbi_jax.tasks.task import Task

# Fields that may change when a run is resumed: they do not affect what is learned, or they name folders that may have
# moved.
FREE_FIELDS = (
    "init",
    "loss.estimator",
    "data.annotations",
    "data.videos",
    "data.num_workers",
    "data.num_threads",
    "data.cache_gib",
    "data.video_timeout",
    "data.prepare",
    "train.log_every",
    "eval",
    "mesh",
)


def open_workdir(path: str) -> epath.Path:
    """Returns the folder at `path`, creating it if needed.

    Raises:
      ConfigError: If the folder cannot be written to.
    """
    folder = epath.Path(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--workdir={path}: wanted a folder that can be written ({error}); choose another") from error
    return folder


def claim_workdir(task: Task, resumes: bool) -> None:
    """Writes the configuration into the task's work folder.

    Args:
      task: The task.
      resumes: Whether training resumes from a checkpoint in the folder.

    Raises:
      ConfigError: If the run was started with a different configuration.
    """
    file = task.workdir / "config.json"
    if resumes and file.exists():
        _check_same(task.config, read_config(file), task.workdir)
        task.check_workdir(task.workdir)
    if jax.process_index() == 0:
        file.write_text(to_json(task.config))
        task.claim_workdir()


def _check_same(config: Config, begun: Config, workdir: epath.Path) -> None:
    """Raises if a field outside `FREE_FIELDS` differs from the configuration that the run was started with."""
    ours, theirs = (json.loads(json.dumps(flat(plain(each)))) for each in (config, begun))
    free = tuple(f"{field}." for field in FREE_FIELDS)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name) and not f"{name}.".startswith(free):
            raise ConfigError(
                f"config.{name}={ours.get(name)!r}, but --workdir={workdir} was started with "
                f"{theirs.get(name)!r}; use that, or another --workdir"
            )
