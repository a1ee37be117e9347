"""A run of any task, from its configuration: prepare, train or resume, evaluate, report."""

import contextlib
import dataclasses
import functools
import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import optax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from hbi_jax.data.dataset import Dataset
from hbi_jax.data.datasets import DataError, Split
from hbi_jax.data.source import Source
from hbi_jax.fields import ConfigError, plain
from hbi_jax.files import replace_file
from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.parallel.processes import barrier
from hbi_jax.report import report as reports
from hbi_jax.report.write import print_summary, write_report
from hbi_jax.tasks.agreement import check_same_data, check_same_folder
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.gallery import share_unreadable
from hbi_jax.tasks.lock import owned
from hbi_jax.tasks.registry import make_task
from hbi_jax.tasks.task import Results, Task
from hbi_jax.tasks.training import check_batch_size, make_state, make_step
from hbi_jax.tasks.weights import is_converted, open_checkpoint, workdir_of
from hbi_jax.tasks.workdir import check_continued, check_evaluated, claim_workdir, open_workdir
from hbi_jax.train import loop
from hbi_jax.train.checkpoint import Checkpoints, Restored
from hbi_jax.train.optimizer import make_schedule
from hbi_jax.train.state import TrainState, init_state, state_shardings
from hbi_jax.train.step import compile_step
from hbi_jax.train.writers import ConsoleWriter, JsonlWriter, MultiWriter, TensorBoardWriter
from hbi_jax.version import __version__

_log = logging.getLogger(__name__)

TRAINING = "training.json"


class Setup(NamedTuple):
    """The common starting point of training and evaluation."""

    config: Config
    workdir: epath.Path
    mesh: Mesh
    task: Task


@contextlib.contextmanager
def own(workdir: str) -> Iterator[None]:
    """Owns a work folder while the context lasts, so that no other run writes to it.

    `train` and `evaluate` do this themselves; a command that calls both owns the folder from its start.

    Raises:
      ConfigError: If another process owns the folder, or it cannot be written to.
    """
    folder = open_workdir(workdir)
    # The first process owns it for its job.
    with contextlib.nullcontext() if jax.process_index() else owned(folder):
        yield


def prepare(config: Config, workdir: str) -> Setup:
    """Checks the devices and the work folder, renders the embedded world if configured, and builds the task.

    Raises:
      ConfigError: If a field is invalid, the work folder cannot be written to, or another host does not see it.
      ShapesError: If the embedded world cannot be rendered.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.model, slices=config.mesh.slices)
    check_batch_size(config, mesh)
    folder = open_workdir(workdir)
    check_same_folder(folder)
    if config.data.render:
        if jax.process_index() == 0:
            Dataset(config.data, config.model.clip.image_size, str(folder)).render()
        barrier("the world is rendered")
    return Setup(config, folder, mesh, make_task(config, mesh, folder))


def train(setup: Setup, checkpoint: str | None = None) -> None:
    """Trains, resuming from the last checkpoint of the work folder. If training is complete, it only logs that.

    Writes `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `training.json`.

    Args:
      setup: The result of `prepare`.
      checkpoint: Where to start if the work folder has no checkpoint: another work folder (its best step) or one of its
        steps, with the state of its optimizer; by default at step 0 with the weights of `config.init`.

    Raises:
      ConfigError: If the work folder was started with a different configuration, or belongs to another process.
      DataError: If the data is invalid.
      CheckpointError: If a checkpoint cannot be read or written.
      NonFiniteError: If a loss, gradient or update is NaN or infinite, and no more such steps may be skipped.
      PreemptedError: If a signal stopped training; the state has been saved.
    """
    config, task = setup.config, setup.task
    source = task.source("train")
    validation = task.source("val") if config.data.has_validation else None
    for gallery in task.dataset.galleries:
        # Check the galleries before training, so that errors surface early.
        records = task.dataset.split(gallery)
        if validation is not None and config.data.protocol == "held_out":
            _check_held_out(validation.split, records)
    num_steps = config.train.length(source.num_rows)
    tx, abstract = make_state(task, num_steps)

    def validate_params(params: PyTree) -> dict[str, float]:
        return {} if validation is None else task.validate(params, validation)

    def schedule(peak: float):
        return make_schedule(config.optimizer, peak, num_steps)

    held_out = [] if validation is None else [validation.split]
    check_same_data([source.split, *held_out, *(task.dataset.split(gallery) for gallery in task.dataset.galleries)])
    with contextlib.ExitStack() as stack:
        stack.enter_context(own(str(setup.workdir)))
        folder = str(setup.workdir / "checkpoints")
        checkpoints = stack.enter_context(Checkpoints(folder, config.eval.best_metric, config.train.keep))
        claim_workdir(task, source.num_rows, checkpoints.latest_step())
        restored = checkpoints.restore_latest(abstract)
        # A run whose checkpoints are gone starts anew.
        anew = restored is None
        if anew and checkpoint is not None:
            restored = _state_of(setup, checkpoint, abstract, num_steps)
        start = 0 if restored is None else int(restored.state.step)
        progress = {} if restored is None else restored.progress

        def unreadable() -> dict[str, str]:
            return progress.get("unreadable", {}) | source.unreadable

        lengths = [] if anew else _lengths(setup.workdir / TRAINING)

        def record(training: reports.Training | None, skipped: Sequence[int]) -> None:
            facts = {
                "training": None if training is None else dataclasses.asdict(training),
                "unreadable": unreadable(),
                "selection": _selection(setup, validation),
                "truncated": task.truncated,
                "skipped_steps": list(skipped),
                "lengths": lengths if lengths[-1:] == [num_steps] else [*lengths, num_steps],
            }
            if jax.process_index() == 0:
                replace_file(setup.workdir / TRAINING, json.dumps(facts, indent=2) + "\n")

        if start >= num_steps:
            _log.info("%s has already completed its %d steps; it is only evaluated", setup.workdir, start)
            if lengths[-1:] != [num_steps]:
                # It was ended between its last checkpoint and this record; how long it took is not known.
                record(None, progress.get("skipped", ()))
            return
        state = _first_state(task, tx, abstract) if restored is None else restored.state
        overview = parameter_overview.get_parameter_overview(state.params["params"], include_stats=False)
        _log.info("parameters\n%s", overview)

        step_fn = make_step(task, tx, abstract)
        # Compiling keeps one core busy: features are computed beside it.
        with ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(_compile, step_fn, abstract, task.abstract_batch())
            task.cache_features(state.params, source)
            compiled, compile_seconds = compiling.result()
        _log.info(
            "step compiled in %.1f s; %s step %d of %d",
            compile_seconds,
            "resuming from" if start else "starting at",
            start,
            num_steps,
        )
        job = loop.Job(
            step_fn=compiled,
            make_batches=functools.partial(task.batches, source),
            put_batch=functools.partial(put_batch, mesh=setup.mesh),
            describe_batch=functools.partial(task.describe_batch, source),
            validate=validate_params,
            schedules={
                "learning_rate/new": schedule(config.optimizer.learning_rate),
                "learning_rate/clip": schedule(config.optimizer.clip_learning_rate),
            },
            agree=functools.partial(share_unreadable, source),
            facts=lambda: {"unreadable": unreadable()},
        )
        writer = stack.enter_context(contextlib.closing(_writer(setup, 0 if anew else start, num_steps)))
        state, summary = loop.train(
            job,
            state,
            dataclasses.replace(config.train, num_steps=num_steps),
            checkpoints,
            writer,
            progress,
        )
        training = reports.Training(
            steps=num_steps,
            seconds=summary.seconds,
            steps_per_second=summary.steps / summary.step_seconds,
            compile_seconds=compile_seconds,
            parameters=int(parameter_overview.count_parameters(state.params["params"])),
            wait_seconds=summary.wait_seconds,
            timed_steps=summary.steps,
        )
        record(training, summary.skipped)


def evaluate(setup: Setup, checkpoint: str | None = None) -> None:
    """Evaluates a checkpoint on every gallery. Writes `report.json`, `report.md` and pictures, and prints a table.

    Args:
      setup: The result of `prepare`, with the configuration that the checkpoint was trained with.
      checkpoint: A work folder (its best step), one of its steps, or a folder of converted weights; by default the
        work folder of `setup`.

    Raises:
      ConfigError: If the checkpoint was trained with another model, or another process owns the work folder.
      DataError: If the data is invalid.
      CheckpointError: If there is no checkpoint, or it belongs to another model.
    """
    path, told = checkpoint or str(setup.workdir), []
    with own(str(setup.workdir)):
        if is_converted(path):
            params = setup.task.placed(functools.partial(setup.task.load_converted, path=path))
            label = "converted weights"
        else:
            told = check_evaluated(setup.config, workdir_of(path))
            params, step = restore_params(setup, path)
            label = f"step {step}"
        check_same_data([setup.task.dataset.split(gallery) for gallery in setup.task.dataset.galleries])
        results = setup.task.evaluate(params, label)
        results = results._replace(protocol=[*told, *results.protocol])
        if jax.process_index() == 0:
            _report(setup, results, of_this_run=workdir_of(path).absolute() == setup.workdir)
        # Before the others go on, or end.
        barrier("the report is written")


def restore_params(setup: Setup, checkpoint: str) -> tuple[PyTree, int]:
    """Returns the parameters of a work folder's best checkpoint, or of one of its steps, and the step.

    Raises:
      CheckpointError: If there is no checkpoint, or it belongs to another model.
      ConfigError: If this task would interpret the parameters differently, for instance with another vocabulary.
    """
    setup.task.check_workdir(workdir_of(checkpoint))
    with open_checkpoint(checkpoint, setup.config.eval.best_metric) as (checkpoints, step):
        return checkpoints.restore_params(setup.task.abstract_params(), step), step


def _compile(step_fn: jax.stages.Wrapped, state: TrainState, batch: PyTree) -> tuple[jax.stages.Compiled, float]:
    """Compiles the step; returns it and the seconds that this took."""
    begun = time.perf_counter()
    compiled = compile_step(step_fn, state, batch)
    return compiled, time.perf_counter() - begun


def _first_state(task: Task, tx: optax.GradientTransformation, abstract: TrainState) -> TrainState:
    """Returns the initial state: fresh parameters, with the weights of `config.init` in place."""
    state = init_state(task.init_params, tx, task.mesh, task.config.mesh.fsdp)
    return state._replace(params=jax.device_put(task.load_init(state.params), state_shardings(abstract).params))


def _state_of(setup: Setup, checkpoint: str, abstract: TrainState, num_steps: int) -> Restored:
    """Returns the state of another run's checkpoint, optimizer included."""
    workdir = workdir_of(checkpoint).absolute()
    if is_converted(checkpoint):
        raise ConfigError(
            f"--checkpoint={checkpoint} holds converted weights without an optimizer: wanted a work folder or one of "
            f"its steps; start from them with --config.init={checkpoint}"
        )
    if workdir == setup.workdir:
        raise ConfigError(
            f"--checkpoint={checkpoint} is in --workdir itself: wanted the checkpoint of another run; choose another "
            "--workdir, or leave the flag out"
        )
    check_continued(setup.config, workdir)
    setup.task.check_workdir(workdir)
    with open_checkpoint(checkpoint, setup.config.eval.best_metric) as (checkpoints, step):
        if step >= num_steps:
            raise ConfigError(
                f"--checkpoint={checkpoint} has made {step} steps already: wanted fewer than the {num_steps} of this "
                "run; raise config.train.num_steps or config.train.num_epochs"
            )
        state = checkpoints.restore(abstract, step)
    _log.info("continuing from step %d of %s, with its optimizer", step, workdir)
    return Restored(state, {})


def _lengths(file: epath.Path) -> list[int]:
    """Returns the lengths, in steps, at which this run was finished: several if it was lengthened."""
    if not file.exists():
        return []
    facts = json.loads(file.read_text())
    # Earlier versions did not record it.
    return facts["lengths"] if "lengths" in facts else [facts["training"]["steps"]]


def _check_held_out(validation: Split, gallery: Split) -> None:
    """Raises if the validation split, which selects the checkpoint, shares videos with a gallery."""
    # Of one video there may be several clips, each with its own id.
    files = {video.path for video in validation.videos}
    shared = sorted({video.path: video.video_id for video in gallery.videos if video.path in files}.values())
    if shared:
        raise DataError(
            "the validation split",
            f"{len(shared)} videos that are also in gallery {gallery.name!r}, such as {shared[0]!r}",
            "none if config.data.protocol='held_out'",
            "choose another config.data.val_list; to select by the gallery itself, as the published code does, empty "
            "it and set config.data.protocol=published",
        )


def _selection(setup: Setup, validation: Source | None) -> str:
    """Returns a sentence on how the checkpoint was selected."""
    if validation is None:
        return "There was no validation split: the checkpoint is the last one."
    if setup.config.data.protocol == "published":
        return (
            f"The checkpoint is the best one on gallery {setup.task.dataset.galleries[0]!r} itself, as in the "
            "published code (config.data.protocol='published'), so the results on that gallery are optimistic."
        )
    return "The checkpoint is the best one on the validation split, which shares no video with any gallery."


def _writer(setup: Setup, kept: int, num_steps: int) -> MultiWriter:
    """Returns writers to the console, JSON lines and TensorBoard on the first process, and none on the others.

    The rows of the first `kept` steps are kept.
    """
    if jax.process_index():
        return MultiWriter([])
    writer = MultiWriter(
        [
            ConsoleWriter(num_steps),
            JsonlWriter(setup.workdir / "metrics.jsonl"),
            TensorBoardWriter(setup.workdir / "tensorboard"),
        ]
    )
    writer.truncate_after(kept)
    return writer


def _report(setup: Setup, results: Results, of_this_run: bool) -> None:
    # Drawing libraries take long to load, and most commands draw nothing.
    from hbi_jax.report.curves import plot_training

    config, training, metrics = setup.config, None, setup.workdir / "metrics.jsonl"
    unreadable, pictures, protocol = results.unreadable, list(results.pictures), list(results.protocol)
    truncated = setup.task.truncated
    if of_this_run and (setup.workdir / TRAINING).exists():
        facts = json.loads((setup.workdir / TRAINING).read_text())
        if facts["training"] is not None:
            # Earlier versions recorded other values, too.
            names = {field.name for field in dataclasses.fields(reports.Training)}
            training = reports.Training(**{name: facts["training"][name] for name in names & facts["training"].keys()})
        unreadable |= facts["unreadable"]
        protocol.append(facts["selection"])
        truncated = facts.get("truncated", {}) | truncated
        if skipped := facts.get("skipped_steps"):
            protocol.append(
                f"{len(skipped)} training steps were skipped because their loss, gradient or update was not finite: "
                f"{', '.join(map(str, skipped))}."
            )
        if len(lengths := facts.get("lengths", [])) > 1:
            protocol.append(
                "The run was lengthened: its learning-rate schedule ended at step "
                f"{', then at step '.join(map(str, lengths))}."
            )
    protocol += [f"{sentence}." for sentence in truncated.values()]
    if of_this_run and metrics.exists():
        curves = setup.workdir / "pictures" / "training.png"
        plot_training(metrics, curves)
        pictures.insert(0, reports.Picture(str(curves), "Losses, learning rates and validation over training."))
    report = reports.Report(
        title=f"{config.name}: {config.task}",
        command=shlex.join(["python", "-m", "hbi_jax.main", *sys.argv[1:]]),
        config=plain(config),
        environment=reports.current_environment(__version__),
        dataset=results.dataset,
        galleries=results.galleries,
        tables=results.tables,
        protocol=protocol,
        training=training,
        unreadable=unreadable,
        pictures=pictures,
    )
    write_report(setup.workdir, report)
    print_summary(report)
    _log.info("the report is in %s", setup.workdir / "report.md")
