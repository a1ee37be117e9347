"""Runs a table of ablations: several seeds of every model, run by run.

  python -m hbi_jax.ablate --table=4 --config=configs/quickstart.py --workdir=runs/ablations

Tables: 4, 5, 6 and 7 as in HBI V2's paper; weights (its Fig. 8), versions (baseline, V1, V2) and teachers (exact,
estimator, sampled); several with commas between. Every run is a `python -m hbi_jax.main` in a folder of --workdir,
which keeps what it prints in log.txt. All runs have one rendered world; tables share the runs that they have in common.
The same command goes on with what was interrupted, tries again what failed, and takes as it is what is finished. After
every run the tables are written anew, as far as they are: ablation_4.md, .json and .png.
"""

import fcntl
import hashlib
import itertools
import json
import logging
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from hbi_jax import commands
from hbi_jax.ablations import ESTIMATOR, TABLES, Overrides, Row, rows_of
from hbi_jax.config import default_config, validate
from hbi_jax.evaluate.ablation import Ablation, Line
from hbi_jax.progress import format_duration
from hbi_jax.runs import chance, figures, is_finished, run

# Not __name__, which is __main__ here.
_log = logging.getLogger("hbi_jax.ablate")

_TABLE = flags.DEFINE_list("table", None, f"Which: {', '.join(TABLES)}; several with commas between.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every model. All models have the first, then the next.")

# Tables have no use for what these make.
_QUIET: Overrides = {"eval.baselines": False, "eval.num_pictures": 0}
# What changes none of a run's figures.
_FREE_FIELDS = (
    "name",
    "data.annotations",
    "data.videos",
    "data.num_workers",
    "data.num_threads",
    "data.cache_gib",
    "train.log_every",
    "mesh.data",
    "mesh.model",
)


class Base(NamedTuple):
    """The configuration that all models of a table differ from.

    Attributes:
      config: Its fields.
      file: Where they come from, as `--config` says it.
      given: What the command line changes of the file.
    """

    config: ConfigDict
    file: str
    given: Mapping[str, object]


class Job(NamedTuple):
    """One run: a model with a seed, and a short name of everything that its figures depend on."""

    row: Row
    seed: int
    digest: str


class RunError(Exception):
    """A run that failed, in one phrase."""


class Runner:
    """Makes runs, each once.

    Attributes:
      reports: Of the finished ones, by digest.
      failed: What became of the others, by digest.
    """

    def __init__(self, base: Base, workdir: pathlib.Path, first_seed: int):
        """Nothing is run yet.

        Args:
          base: What the models differ from.
          workdir: The folder of all runs.
          first_seed: That of the model which an estimator learns from.
        """
        self._base, self._workdir, self._first_seed = base, workdir, first_seed
        # One world and one cache for all, where each run would have its own.
        shared = {
            name: value.replace("{workdir}", str(workdir))
            for name, value in _flat(base.config).items()
            if isinstance(value, str) and "{workdir}" in value
        }
        self._fields = {**base.given, **shared, **_QUIET}
        self.reports: dict[str, dict] = {}
        self.failed: dict[str, str] = {}

    def job(self, row: Row, seed: int) -> Job:
        """A run of a model.

        Raises:
          ConfigError: If its configuration cannot work.
        """
        config = self._base.config.copy_and_resolve_references()
        for name, value in (_QUIET | row.overrides | {"seed": seed}).items():
            *sections, field = name.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[field] = value
        validate(config)
        return Job(row, seed, _digest(config))

    def folder(self, job: Job) -> pathlib.Path:
        """Where a run is. What stands before the digest is for readers: its name in the table that had it first."""
        name = re.sub(r"[^a-z0-9]+", "-", job.row.name.lower()).strip("-")
        return next(self._workdir.glob(f"*-{job.digest}"), self._workdir / f"{name}-{job.seed}-{job.digest}")

    def make(self, job: Job) -> None:
        """Runs, goes on, or takes what is there."""
        try:
            fields = {**self._fields, **job.row.overrides, "seed": job.seed}
            if fields.get("loss.estimator") == ESTIMATOR and not is_finished(self.folder(job)):
                fields["loss.estimator"] = self._estimator(job.row)
            self.reports[job.digest] = _run(self.folder(job), self._base.file, fields)
        except RunError as error:
            self.failed[job.digest] = str(error)

    def outcome(self, job: Job) -> str:
        """What became of a run that was made, in one phrase."""
        if job.digest in self.failed:
            return self.failed[job.digest]
        name, value = next(iter(figures(self.reports[job.digest]).items()))
        return f"{name} {value:.1f}"

    def _estimator(self, row: Row) -> pathlib.Path:
        """The folder of an estimator that learns from the first seed's model of the exact teacher."""
        exact = Row("exact", row.overrides | {"loss.teacher": "exact", "loss.estimator": ""})
        job = self.job(exact, self._first_seed)
        if job.digest not in self.reports | self.failed:
            self.make(job)
        if job.digest in self.failed:
            raise RunError(f"the run that its estimator learns from {self.failed[job.digest]}")
        model, file = self.folder(job), pathlib.Path(self._base.file)
        folder = model.with_name(f"{model.name}-estimator")
        fields = {**self._fields, **exact.overrides, "init": model, "eval.best_metric": "correlation"}
        _run(folder, f"{file.with_name('estimator.py')}:{file.stem}", fields)
        return folder


def _run(folder: pathlib.Path, config: str, fields: Overrides) -> dict:
    """The report of a run, as soon as no other command is at work in its folder."""
    settings = [f"--config.{name}={value}" for name, value in fields.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return run(folder, config, *settings, log=folder / "log.txt")
        except subprocess.CalledProcessError as error:
            raise RunError(f"failed with exit code {error.returncode}, see {folder / 'log.txt'}") from error


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Fields by dotted names."""
    out = {}
    for name, value in config.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return out


def _digest(config: ConfigDict) -> str:
    """Of the fields that differ from their defaults: a field that is new to hbi_jax changes no digest."""
    defaults = _flat(default_config())
    fields = {
        name: value
        for name, value in _flat(config).items()
        if name not in _FREE_FIELDS and (name not in defaults or defaults[name] != value)
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]


def make_tables(
    names: Sequence[str], base: Base, workdir: pathlib.Path, seeds: Sequence[int], out: pathlib.Path, command: str
) -> bool:
    """Makes the runs of some tables, and writes the tables after each.

    Args:
      names: Of `hbi_jax.ablations.TABLES`.
      base: What their models differ from.
      workdir: The folder of the runs.
      seeds: Of every model, in the order in which they are run.
      out: The folder of the tables.
      command: What to repeat, for the tables.

    Returns:
      Whether no run failed.

    Raises:
      ConfigError: If the configuration of some run cannot work; nothing is run.
    """
    runner = Runner(base, workdir, seeds[0])
    tables = {name: [runner.job(row, seed) for seed in seeds for row in rows_of(name, base.config)] for name in names}
    # Seed by seed, so that stopping early leaves tables of fewer seeds; and what is finished before what is not.
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
    """Markdown, JSON and picture of every table that has a run."""
    from hbi_jax.visualize.ablations import plot_ablation

    out.mkdir(parents=True, exist_ok=True)
    for name, jobs in tables.items():
        reports = [runner.reports[job.digest] for job in jobs if job.digest in runner.reports]
        if not reports:
            continue
        table = _table(name, jobs, runner, seeds, reports[0], command)
        stem = out / f"ablation_{name}"
        stem.with_suffix(".json").write_text(table.to_json(), encoding="utf-8")
        picture = stem.with_suffix(".png")
        plot_ablation(table.title, {line.name: list(line.runs.values()) for line in table.lines}, table.chance, picture)
        blocks = [f"# {table.title}", f"![{table.title}]({picture.name})", table.markdown(), f"    {command}"]
        stem.with_suffix(".md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _table(
    name: str, jobs: Sequence[Job], runner: Runner, seeds: Sequence[int], report: Mapping, command: str
) -> Ablation:
    """What is known of a table; `report` is that of some run."""
    lines = []
    for row in {job.row.name: job.row for job in jobs}.values():
        own = {str(job.seed): job.digest for job in jobs if job.row.name == row.name}
        runs = {seed: figures(runner.reports[digest]) for seed, digest in own.items() if digest in runner.reports}
        failed = {seed: runner.failed[digest] for seed, digest in own.items() if digest in runner.failed}
        lines.append(Line(row.name, row.overrides, row.paper, runs, failed))
    environment, first = report["environment"], (*report["galleries"], *report["tables"])[0]
    counts = f", {first['texts']:,} texts and {first['videos']:,} videos" if "texts" in first else ""
    return Ablation(
        title=TABLES[name].title,
        note=TABLES[name].note,
        command=command,
        seeds=seeds,
        lines=lines,
        chance=chance(report),
        data=f"{first['name'][:1].upper()}{first['name'][1:]}{counts}",
        budget=f"{report['training']['steps']:,} steps of {report['config']['train']['batch_size']} rows",
        machine=f"{environment['device_count']} x {environment['device_kind']}, jax {environment['jax']}",
    )


def _stop(number: int, frame: object) -> None:
    # Ends the wait for a run, which is then told to stop and saves first.
    _log.info("stopping; the same command goes on from here")
    sys.exit(128 + number)


def _main() -> int:
    """Makes the tables that the flags ask for."""
    commands.wanted((_TABLE, "4"), (commands.CONFIG, "quickstart"), (commands.WORKDIR, "runs/ablations"))
    for name in _TABLE.value:
        if name not in TABLES:
            commands.fail(f"--table={name}: wanted one of {', '.join(TABLES)}; choose among them")
    if not _SEEDS.value or not all(seed.isdigit() for seed in _SEEDS.value):
        commands.fail(f"--seeds={','.join(_SEEDS.value)}: wanted numbers with commas between; write --seeds=0,1,2")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    flag, workdir = flags.FLAGS["config"], pathlib.Path(commands.WORKDIR.value)
    base = Base(commands.CONFIG.value, config_flags.get_config_filename(flag), config_flags.get_override_values(flag))
    command = shlex.join(["python", "-m", "hbi_jax.ablate", *sys.argv[1:]])
    good = make_tables(_TABLE.value, base, workdir, [int(seed) for seed in _SEEDS.value], workdir, command)
    _log.info("the tables are in %s", ", ".join(str(workdir / f"ablation_{name}.md") for name in _TABLE.value))
    return 0 if good else 1


if __name__ == "__main__":
    commands.run(_main, __name__, __doc__)
