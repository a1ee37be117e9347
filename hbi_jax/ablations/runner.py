"""Runs each model of the ablation tables once, and writes the tables after every run."""

import fcntl
import hashlib
import itertools
import json
import logging
import pathlib
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from hbi_jax.ablations.pictures import plot_ablation
from hbi_jax.ablations.results import Ablation, Line
from hbi_jax.ablations.runs import chance, figures, is_finished, run
from hbi_jax.ablations.tables import ESTIMATOR, TABLES, Overrides, Row, rows_of
from hbi_jax.commands.progress import format_duration
from hbi_jax.config import default_config, parse
from hbi_jax.fields import ConfigError, flat
from hbi_jax.tasks.config import FREE_FIELDS

_log = logging.getLogger(__name__)

# Tables do not use the outputs of these fields, so they are turned off.
_QUIET: Overrides = {"eval.baselines": False, "eval.num_pictures": 0, "eval.patch_texts": 0}
# Fields that do not affect the results of a run: those that may change on resuming, but for what it starts from, learns
# from and evaluates.
_FREE_FIELDS = (
    "name",
    "data.feature_folder",
    *(field for field in FREE_FIELDS if field not in ("init", "loss.estimator", "eval")),
)


class Base(NamedTuple):
    """The configuration that all models of a table differ from.

    Attributes:
      config: The configuration.
      file: The value of `--config` that it comes from.
      given: The fields that the command line overrides.
    """

    config: ConfigDict
    file: str
    given: Mapping[str, object]


class Job(NamedTuple):
    """One run: a model, a seed, and a digest of everything that its results depend on."""

    row: Row
    seed: int
    digest: str


class RunError(Exception):
    """A failed run. The message is one phrase."""


class Runner:
    """A runner that makes each run once.

    Attributes:
      reports: The reports of finished runs, by digest.
      failed: The messages of failed runs, by digest.
    """

    def __init__(self, base: Base, workdir: pathlib.Path, first_seed: int):
        """Prepares the fields that all runs share; runs nothing.

        Args:
          base: The configuration that the models differ from.
          workdir: The folder of all runs.
          first_seed: The seed of the model that estimators learn from.
        """
        self._base, self._workdir, self._first_seed = base, workdir, first_seed
        # It reads the configuration that it is named after from its own folder.
        self._estimator_config = pathlib.Path(base.file).with_name("estimator.py")
        # All runs share one rendered world and one cache; by default each would make its own.
        shared = {
            name: value.replace("{workdir}", str(workdir))
            for name, value in flat(base.config.to_dict()).items()
            if isinstance(value, str) and "{workdir}" in value
        }
        if base.config.data.cache_features and not base.config.data.feature_folder:
            shared["data.feature_folder"] = str(workdir / "features")
        self._fields = {**base.given, **shared, **_QUIET}
        self.reports: dict[str, dict] = {}
        self.failed: dict[str, str] = {}

    def job(self, row: Row, seed: int) -> Job:
        """Returns the run of a model with a seed.

        Raises:
          ConfigError: If its configuration is invalid, or there is none for the estimator that it needs.
        """
        config = self._base.config.copy_and_resolve_references()
        for name, value in (_QUIET | row.overrides | {"seed": seed}).items():
            *sections, field = name.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[field] = value
        parse(config)
        job = Job(row, seed, _digest(config))
        if self._needs_estimator(job) and not self._estimator_config.is_file():
            raise ConfigError(
                f"--config={self._base.file}: wanted {self._estimator_config.name} beside it, which trains the "
                f"estimator of the model {row.name!r}; copy it there from configs/, or leave this table out"
            )
        return job

    def folder(self, job: Job) -> pathlib.Path:
        """Returns the folder of a run. It is found by the digest; the name before it is for readers only."""
        name = re.sub(r"[^a-z0-9]+", "-", job.row.name.lower()).strip("-")
        return next(self._workdir.glob(f"*-{job.digest}"), self._workdir / f"{name}-{job.seed}-{job.digest}")

    def make(self, job: Job) -> None:
        """Starts or resumes a run, or reads the report of a finished one."""
        try:
            fields = {**self._fields, **job.row.overrides, "seed": job.seed}
            if self._needs_estimator(job):
                fields["loss.estimator"] = self._estimator(job.row)
            self.reports[job.digest] = _run(self.folder(job), self._base.file, fields)
        except RunError as error:
            self.failed[job.digest] = str(error)

    def outcome(self, job: Job) -> str:
        """Describes the outcome of a run in one phrase."""
        if job.digest in self.failed:
            return self.failed[job.digest]
        name, value = next(iter(figures(self.reports[job.digest]).items()))
        return f"{name} {value:.1f}"

    def _needs_estimator(self, job: Job) -> bool:
        return job.row.overrides.get("loss.estimator") == ESTIMATOR and not is_finished(self.folder(job))

    def _estimator(self, row: Row) -> pathlib.Path:
        """Returns the folder of an estimator, trained on the exact-teacher model of the first seed."""
        exact = Row("exact", row.overrides | {"loss.teacher": "exact", "loss.estimator": ""})
        job = self.job(exact, self._first_seed)
        if job.digest not in self.reports | self.failed:
            self.make(job)
        if job.digest in self.failed:
            raise RunError(f"the run that its estimator learns from {self.failed[job.digest]}")
        model = self.folder(job)
        folder = model.with_name(f"{model.name}-estimator")
        fields = {**self._fields, **exact.overrides, "init": model, "eval.best_metric": "correlation"}
        _run(folder, f"{self._estimator_config}:{pathlib.Path(self._base.file).stem}", fields)
        return folder


def _run(folder: pathlib.Path, config: str, fields: Overrides) -> dict:
    """Returns the report of a run, after waiting for any other command that uses its folder."""
    settings = [f"--config.{name}={value}" for name, value in fields.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return run(folder, config, *settings, log=folder / "log.txt", programs=folder.parent / "programs")
        except subprocess.CalledProcessError as error:
            raise RunError(f"failed with exit code {error.returncode}, see {folder / 'log.txt'}") from error


def _digest(config: ConfigDict) -> str:
    """Returns a digest of the fields that differ from their defaults, so new fields of hbi_jax change no digest."""
    defaults, free = flat(default_config().to_dict()), tuple(f"{field}." for field in _FREE_FIELDS)
    fields = {
        name: value
        for name, value in flat(config.to_dict()).items()
        if not f"{name}.".startswith(free) and (name not in defaults or defaults[name] != value)
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]


def make_tables(
    names: Sequence[str], base: Base, workdir: pathlib.Path, seeds: Sequence[int], out: pathlib.Path, command: str
) -> bool:
    """Makes the runs of ablation tables, and writes the tables after each run.

    Args:
      names: Keys of `hbi_jax.ablations.tables.TABLES`.
      base: The configuration that the models differ from.
      workdir: The folder of the runs.
      seeds: The seeds of every model, in the order in which they are run.
      out: The folder of the tables.
      command: The command line to print in the tables.

    Returns:
      True if no run failed.

    Raises:
      ConfigError: If the configuration of a run is invalid; nothing is run.
    """
    # A seed that is given twice is one run.
    seeds = list(dict.fromkeys(seeds))
    runner = Runner(base, workdir, seeds[0])
    tables = {name: [runner.job(row, seed) for seed in seeds for row in rows_of(name, base.config)] for name in names}
    # Seed by seed, so that stopping early leaves complete tables with fewer seeds. Finished runs come first.
    jobs: dict[str, Job] = {}
    for job in sorted(itertools.chain(*tables.values()), key=lambda job: seeds.index(job.seed)):
        jobs.setdefault(job.digest, job)
    left = [job for job in jobs.values() if not is_finished(runner.folder(job))]
    done = [job for job in jobs.values() if job not in left]
    _log.info("%d runs, %d of them finished", len(jobs), len(done))
    for job in done:
        runner.make(job)
    _write(tables, runner, seeds, out, command)
    begun = time.monotonic()
    for number, job in enumerate(left, 1):
        _log.info("run %d of %d: %s, seed %d, in %s", number, len(left), job.row.name, job.seed, runner.folder(job))
        runner.make(job)
        _write(tables, runner, seeds, out, command)
        seconds = time.monotonic() - begun
        to_go = format_duration(seconds / number * (len(left) - number))
        _log.info("  %s; %s since the start, ETA %s", runner.outcome(job), format_duration(seconds), to_go)
    return not runner.failed


def _write(
    tables: Mapping[str, Sequence[Job]], runner: Runner, seeds: Sequence[int], out: pathlib.Path, command: str
) -> None:
    """Writes the Markdown, JSON and picture of every table with at least one run."""
    out.mkdir(parents=True, exist_ok=True)
    for name, jobs in tables.items():
        reports = [runner.reports[job.digest] for job in jobs if job.digest in runner.reports]
        if not reports:
            continue
        # A run that was killed before its last record does not tell how it was trained.
        told = next((report for report in reports if report["training"]), reports[0])
        table = _table(name, jobs, runner, seeds, told, command)
        stem = out / f"ablation_{name}"
        stem.with_suffix(".json").write_text(table.to_json(), encoding="utf-8")
        picture = stem.with_suffix(".png")
        plot_ablation(table.title, {line.name: list(line.runs.values()) for line in table.lines}, table.chance, picture)
        blocks = [f"# {table.title}", f"![{table.title}]({picture.name})", table.markdown(), f"    {command}"]
        stem.with_suffix(".md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _table(
    name: str, jobs: Sequence[Job], runner: Runner, seeds: Sequence[int], report: Mapping, command: str
) -> Ablation:
    """Builds a table from the runs made so far; `report` is the report of any one of them."""
    lines = []
    for row in {job.row.name: job.row for job in jobs}.values():
        own = {str(job.seed): job.digest for job in jobs if job.row.name == row.name}
        runs = {seed: figures(runner.reports[digest]) for seed, digest in own.items() if digest in runner.reports}
        failed = {seed: runner.failed[digest] for seed, digest in own.items() if digest in runner.failed}
        lines.append(Line(row.name, row.overrides, row.paper, runs, failed))
    environment, first = report["environment"], (*report["galleries"], *report["tables"])[0]
    steps = f"{report['training']['steps']:,} steps" if report["training"] else "an unrecorded number of steps"
    counts = f", {first['texts']:,} texts and {first['videos']:,} videos" if "texts" in first else ""
    return Ablation(
        title=TABLES[name].title,
        note=TABLES[name].note,
        command=command,
        seeds=seeds,
        lines=lines,
        chance=chance(report),
        data=f"{first['name'][:1].upper()}{first['name'][1:]}{counts}",
        budget=f"{steps} of {report['config']['train']['batch_size']} rows",
        machine=f"{environment['device_count']} x {environment['device_kind']}, jax {environment['jax']}",
    )
