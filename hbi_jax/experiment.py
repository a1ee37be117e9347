"""A run from its configuration: prepare, train or go on, evaluate, report."""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import shlex
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import optax
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int, PyTree
from ml_collections import ConfigDict

from hbi_jax import __version__, build
from hbi_jax.config import ConfigError, default_config, validate
from hbi_jax.data import shapes
from hbi_jax.data.datasets import DataError, Split
from hbi_jax.data.source import Source
from hbi_jax.evaluate import report as reports
from hbi_jax.parallel import DATA_AXIS, make_mesh, put_batch
from hbi_jax.tasks import Results, Task, make_task
from hbi_jax.train import loop
from hbi_jax.train.checkpoint import Checkpoints
from hbi_jax.train.optimizer import is_frozen, make_optimizer, make_schedule
from hbi_jax.train.state import TrainState, abstract_state, init_state, state_shardings
from hbi_jax.train.step import make_train_step
from hbi_jax.train.writers import ConsoleWriter, JsonlWriter, MultiWriter, TensorBoardWriter
from hbi_jax.visualize.curves import plot_training
from hbi_jax.weights import is_converted, open_checkpoint, workdir_of

_log = logging.getLogger(__name__)

# What may change between the first start of a run and the next: nothing of it changes what is learnt, and folders may
# have moved.
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


class Setup(NamedTuple):
    """What training and evaluation both start from."""

    config: ConfigDict
    workdir: epath.Path
    mesh: Mesh
    task: Task


def prepare(config: ConfigDict, workdir: str) -> Setup:
    """Checks the configuration and the work folder, renders the embedded world, builds the model.

    Raises:
      ConfigError: If a field cannot work or the work folder cannot be written.
      ShapesError: If the world cannot be rendered.
    """
    validate(config)
    mesh = make_mesh(config.mesh.data, config.mesh.model)
    rows = mesh.shape[DATA_AXIS]
    if config.train.batch_size % rows:
        raise ConfigError(
            f"config.train.batch_size={config.train.batch_size}: wanted a multiple of the {rows} devices along "
            f"the mesh's data axis; use {-(-config.train.batch_size // rows) * rows}"
        )
    folder = epath.Path(workdir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir}: wanted a folder that can be written ({error}); choose another"
        ) from error
    if config.data.render == "shapes":
        if jax.process_index() == 0:
            shapes.generate(build.folder(config, "annotations", workdir), build.world(config))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("the world is rendered")
    return Setup(config, folder, mesh, make_task(config, mesh, folder))


def train(setup: Setup) -> None:
    """Trains, or goes on from the work folder's last checkpoint; says so where nothing is left to do.

    Writes `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `training.json`.

    Raises:
      ConfigError: If the work folder belongs to another configuration.
      DataError: If the data is not what it should be.
      CheckpointError: If a checkpoint cannot be read or written.
      NonFiniteError: If the loss is no number.
      PreemptedError: If a signal asked to stop; everything is saved.
    """
    config, task = setup.config, setup.task
    source = task.source("train")
    validation = task.source("val") if build.has_validation(config) else None
    for gallery in task.galleries:
        # What is wrong with a gallery is better told now than after the training.
        records = build.split(config, gallery, str(setup.workdir))
        if validation is not None and config.data.protocol == "held_out":
            _check_held_out(validation.split, records)
    loop_config = build.loop(config, source.num_rows)
    optimizer_config = build.optimizer(config)
    tx = make_optimizer(optimizer_config, jax.eval_shape(task.init_params), loop_config.num_steps)
    abstract = abstract_state(task.init_params, tx, setup.mesh)

    def validate_params(params: PyTree) -> dict[str, float]:
        return {} if validation is None else task.validate(params, validation)

    def schedule(peak: float):
        return make_schedule(optimizer_config, peak, loop_config.num_steps)

    with contextlib.ExitStack() as stack:
        folder = str(setup.workdir / "checkpoints")
        checkpoints = stack.enter_context(Checkpoints(folder, config.eval.best_metric))
        start = checkpoints.latest_step() or 0
        _claim_workdir(setup, resumes=start > 0)
        if start >= loop_config.num_steps:
            _log.info("%s has all its %d steps already: only evaluating it", setup.workdir, start)
            return
        state = checkpoints.restore(abstract, start) if start else _first_state(task, tx, abstract)
        overview = parameter_overview.get_parameter_overview(state.params["params"], include_stats=False)
        _log.info("parameters\n%s", overview)

        begun = time.perf_counter()
        frozen = is_frozen(abstract.params, config.optimizer.frozen)
        step_fn = make_train_step(task.loss_fn(), tx, setup.mesh, state_shardings(abstract), config.seed, frozen)
        compiled = step_fn.lower(abstract, task.abstract_batch()).compile()
        compile_seconds = time.perf_counter() - begun
        clips_per_second = _measure_pipeline(setup)
        _log.info(
            "step compiled in %.1f s; the input pipeline alone delivers %.0f clips/s; %s step %d of %d",
            compile_seconds,
            clips_per_second,
            "going on from" if start else "starting at",
            start,
            loop_config.num_steps,
        )
        job = loop.Job(
            step_fn=compiled,
            make_batches=functools.partial(task.batches, source),
            put_batch=functools.partial(put_batch, mesh=setup.mesh),
            describe_rows=functools.partial(_describe_rows, source),
            validate=validate_params,
            schedules={
                "learning_rate/new": schedule(optimizer_config.learning_rate),
                "learning_rate/clip": schedule(optimizer_config.clip_learning_rate),
            },
        )
        writer = stack.enter_context(contextlib.closing(_writer(setup, start, loop_config.num_steps)))
        state, summary = loop.train(job, state, loop_config, checkpoints, writer)
    training = reports.Training(
        steps=loop_config.num_steps,
        seconds=summary.seconds,
        steps_per_second=summary.steps / summary.step_seconds,
        clips_per_second=clips_per_second,
        compile_seconds=compile_seconds,
        parameters=int(parameter_overview.count_parameters(state.params["params"])),
        wait_seconds=summary.wait_seconds,
    )
    if jax.process_index() == 0:
        facts = {
            "training": dataclasses.asdict(training),
            "unreadable": source.unreadable,
            "selection": _selection(setup, validation),
            "truncated": task.truncated,
        }
        (setup.workdir / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def evaluate(setup: Setup, checkpoint: str | None = None) -> None:
    """Evaluates a checkpoint on every gallery; writes `report.json`, `report.md` and pictures, prints a table.

    Args:
      setup: From `prepare`, with the configuration that the checkpoint was trained with.
      checkpoint: A work folder (its best step), one of its steps, or a folder of converted weights; by default the
        work folder of `setup`.

    Raises:
      DataError: If the data is not what it should be.
      CheckpointError: If there is no checkpoint, or it is another model's.
    """
    path = checkpoint or str(setup.workdir)
    if is_converted(path):
        params = setup.task.placed(functools.partial(setup.task.load_converted, path=path))
        label = "converted weights"
    else:
        params, step = restore_params(setup, path)
        label = f"step {step}"
    results = setup.task.evaluate(params, label)
    if jax.process_index() == 0:
        _report(setup, results, of_this_run=workdir_of(path).absolute() == setup.workdir)


def restore_params(setup: Setup, checkpoint: str) -> tuple[PyTree, int]:
    """The parameters of a work folder's best checkpoint, or of one step of it, and the step.

    Raises:
      CheckpointError: If there is none, or it is another model's.
      ConfigError: If the task does not agree with what that work folder's parameters mean.
    """
    setup.task.check_workdir(workdir_of(checkpoint))
    with open_checkpoint(checkpoint, setup.config.eval.best_metric) as (checkpoints, step):
        return checkpoints.restore_params(setup.task.abstract_params(), step), step


def _first_state(task: Task, tx: optax.GradientTransformation, abstract: TrainState) -> TrainState:
    """Fresh parameters, or what `config.init` puts in their place."""
    state = init_state(task.init_params, tx, task.mesh)
    return state._replace(params=jax.device_put(task.load_init(state.params), state_shardings(abstract).params))


def _claim_workdir(setup: Setup, resumes: bool) -> None:
    """Writes the configuration down; refuses to go on with what another one began."""
    file = setup.workdir / "config.json"
    mine = _flat(json.loads(setup.config.to_json()))
    if resumes and file.exists():
        # A field that is newer than the run had its default's meaning then.
        theirs = _flat(json.loads(default_config().to_json())) | _flat(json.loads(file.read_text()))
        free = tuple(f"{field}/" for field in (field.replace(".", "/") for field in FREE_FIELDS))
        for field in sorted(mine.keys() | theirs.keys()):
            if mine.get(field) != theirs.get(field) and not f"{field}/".startswith(free):
                name = field.replace("/", ".")
                raise ConfigError(
                    f"config.{name}={mine.get(field)!r}, but --workdir={setup.workdir} was started with "
                    f"{theirs.get(field)!r}; use that, or another --workdir"
                )
        setup.task.check_workdir(setup.workdir)
    if jax.process_index() == 0:
        file.write_text(setup.config.to_json(indent=2) + "\n")
        setup.task.claim_workdir()


def _check_held_out(validation: Split, gallery: Split) -> None:
    """Raises where a checkpoint would be selected by the videos that it is then measured on."""
    shared = sorted({video.video_id for video in validation.videos} & {video.video_id for video in gallery.videos})
    if shared:
        raise DataError(
            "the validation split",
            f"{len(shared)} videos that gallery {gallery.name!r} has too, such as {shared[0]!r}",
            "none, where config.data.protocol='held_out'",
            "choose another config.data.val_list; to select by the gallery itself, as published code does, empty that "
            "and set config.data.protocol=published",
        )


def _selection(setup: Setup, validation: Source | None) -> str:
    """How the checkpoint was chosen."""
    if validation is None:
        return "There was no validation split: the checkpoint is the last one."
    if setup.config.data.protocol == "published":
        return (
            f"The checkpoint is the best by gallery {setup.task.galleries[0]!r} itself, as in published code "
            "(config.data.protocol='published'): the figures of that gallery are selected on."
        )
    return "The checkpoint is the best by the validation split, which shares no video with any gallery."


def _measure_pipeline(setup: Setup) -> float:
    """Clips a second that decoding delivers when nothing else runs and nothing is cached."""
    uncached = setup.config.copy_and_resolve_references()
    uncached.data.cache_gib = 0.0
    source = build.source(uncached, build.split(uncached, "train", str(setup.workdir)))
    begun = time.perf_counter()
    with contextlib.closing(setup.task.batches(source, 0)) as batches:
        rows = sum(len(batch.record_index) for batch in itertools.islice(batches, 5))
        return rows / (time.perf_counter() - begun)


def _describe_rows(source: Source, record_index: Int[np.ndarray, " b"]) -> str:
    """The videos of a batch, by name."""
    names = dict.fromkeys(source.split.records[index].video_id for index in record_index.tolist())
    return ", ".join(names)


def _writer(setup: Setup, start: int, num_steps: int) -> MultiWriter:
    """Console, JSON lines and TensorBoard on the first process, nothing on the others."""
    if jax.process_index():
        return MultiWriter([])
    writer = MultiWriter(
        [
            ConsoleWriter(num_steps),
            JsonlWriter(setup.workdir / "metrics.jsonl"),
            TensorBoardWriter(setup.workdir / "tensorboard"),
        ]
    )
    writer.truncate_after(start)
    return writer


def _flat(tree: dict, prefix: str = "") -> dict:
    """Nested dicts as one, keys joined by a slash."""
    out = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _report(setup: Setup, results: Results, of_this_run: bool) -> None:
    config, training, metrics = setup.config, None, setup.workdir / "metrics.jsonl"
    unreadable, pictures, protocol = results.unreadable, list(results.pictures), list(results.protocol)
    truncated = setup.task.truncated
    if of_this_run and (setup.workdir / "training.json").exists():
        facts = json.loads((setup.workdir / "training.json").read_text())
        training, unreadable = reports.Training(**facts["training"]), unreadable | facts["unreadable"]
        protocol.append(facts["selection"])
        truncated = facts.get("truncated", {}) | truncated
    protocol += [f"{sentence}." for sentence in truncated.values()]
    if of_this_run and metrics.exists():
        curves = setup.workdir / "pictures" / "training.png"
        plot_training(metrics, curves)
        pictures.insert(0, reports.Picture(str(curves), "Losses, learning rates and validation over training."))
    report = reports.Report(
        title=f"{config.name}: {config.task}",
        command=shlex.join(["python", "-m", "hbi_jax.main", *sys.argv[1:]]),
        config=json.loads(config.to_json()),
        environment=reports.current_environment(__version__),
        dataset=results.dataset,
        galleries=results.galleries,
        tables=results.tables,
        protocol=protocol,
        training=training,
        unreadable=unreadable,
        pictures=pictures,
    )
    reports.write_report(setup.workdir, report)
    reports.print_summary(report)
    _log.info("the report is in %s", setup.workdir / "report.md")
