"""Checks and prepares a data set before training.

  python -m hbi_jax.data check --config=configs/msrvtt.py --config.data.annotations=FOLDER --config.data.videos=FOLDER

check: decodes every video as training would and reports the bad ones; exits with 1 if there are too many.

  python -m hbi_jax.data prepare --config=configs/msrvtt.py ... --out=FOLDER

prepare: writes the frames of all videos to a folder that is faster to read; train from it with
--config.data.prepared=FOLDER. An interrupted pass resumes when the same command is run again. Several processes share
the work with --worker=I --workers=N, by default those of SLURM, of a Kubernetes job, or of JAX.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from absl import flags

from hbi_jax import fields
from hbi_jax.commands import cli
from hbi_jax.commands.workers import share
from hbi_jax.data.config import DataConfig

if TYPE_CHECKING:
    from hbi_jax.data.dataset import Dataset

_SPLITS = flags.DEFINE_list("splits", None, "Splits and galleries, such as train,val,test. The default is all of them.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results; created if missing.")
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Share of bad videos above which check exits with 1; the default is config.data.max_unreadable_rate.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_WORKER = flags.DEFINE_integer("worker", None, "Number of this process, of several that share prepare.", lower_bound=0)
_WORKERS = flags.DEFINE_integer("workers", None, "Number of processes that share prepare.", lower_bound=1)


def _config() -> DataConfig:
    """Returns the data section of the configuration after checking it."""
    cli.wanted((cli.CONFIG, "quickstart"))
    config = fields.parse(DataConfig, cli.CONFIG.value.data.to_dict(), "config.data")
    fields.check(config, "config.data")
    if any("{workdir}" in (folder or "") for folder in (config.annotations, config.videos, config.prepared)):
        cli.wanted((cli.WORKDIR, "runs/quickstart"))
    return config


def _dataset(config: DataConfig) -> "Dataset":
    """Returns the data set; renders the embedded world first if the configuration asks for one.

    `config.data.prepared` is ignored, because these commands read the original video files.
    """
    from hbi_jax.data.dataset import Dataset

    image_size = cli.CONFIG.value.model.clip.image_size
    dataset = Dataset(dataclasses.replace(config, prepared=""), image_size, cli.WORKDIR.value or "")
    dataset.render()
    return dataset


def _check() -> int | None:
    """Checks the videos and texts of the configured data set and returns the exit status."""
    config = _config()
    dataset = _dataset(config)

    from hbi_jax.data import check
    from hbi_jax.data.datasets import DataError

    known = ("train", *(("val",) if config.has_validation else ()), *dataset.galleries)
    wanted = tuple(dict.fromkeys(_SPLITS.value or known))
    splits, broken = {}, {}
    for name in dict.fromkeys((*wanted, *known)):
        try:
            splits[name] = dataset.split(name)
        except DataError as error:
            broken[name] = str(error)
    out = pathlib.Path(_OUT.value).expanduser() if _OUT.value else None
    if out is not None:
        # Make the folder now, so that an error surfaces before hours of work.
        out.mkdir(parents=True, exist_ok=True)
    try:
        findings = check.check(
            [splits[name] for name in wanted if name in splits],
            dataset.tokenizer,
            config.num_frames,
            config.frames_per_second,
            others=[split for name, split in splits.items() if name not in wanted],
            broken={name: message for name, message in broken.items() if name in wanted},
            # If some annotations cannot be read, we do not know which files they mention.
            videos=None if broken else dataset.folder("videos"),
            timeout=config.video_timeout,
            square_pixels=config.square_pixels,
        )
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    print(findings.markdown(), end="")
    if out is not None:
        _write(out / "check.json", findings.json())
        _write(out / "check.md", findings.markdown())
        print(f"\nsaved {out / 'check.json'} and check.md")
    threshold = config.max_unreadable_rate if _THRESHOLD.value is None else _THRESHOLD.value
    return 0 if findings.is_acceptable(threshold) else 1


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file atomically."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _prepare() -> int | None:
    """Writes the frames of the configured data set's videos and returns the exit status."""
    config = _config()
    if not (_OUT.value or config.prepared):
        cli.wanted((_OUT, "prepared"))
    folder = pathlib.Path(_OUT.value or config.prepared.replace("{workdir}", cli.WORKDIR.value or "")).expanduser()
    mine = share(_WORKER.value, _WORKERS.value)
    dataset = _dataset(config)

    from hbi_jax.data.prepare import prepare

    # In the published protocol `val` is the first gallery, which is already in the list.
    held_out = config.has_validation and config.protocol != "published"
    names = _SPLITS.value or ("train", *(("val",) if held_out else ()), *dataset.galleries)
    try:
        summary = prepare(
            [dataset.split(name) for name in dict.fromkeys(names)],
            dataset.folder("videos"),
            folder,
            dataset.prepare_settings,
            config.max_unreadable_rate,
            config.video_timeout,
            config=cli.CONFIG.value.to_dict(),
            worker=mine.worker,
            workers=mine.workers,
        )
    except KeyboardInterrupt:
        print("interrupted; finished shards are kept, and the same command resumes with the others", file=sys.stderr)
        return 130
    for name, unreadable in summary.unreadable.items():
        for reason in unreadable.values():
            print(f"unreadable in split {name}: {reason}")
    if summary.missing:
        print(
            f"worker {mine.worker} of {mine.workers} (from {mine.source}): {summary.shards} shards of {folder} are "
            f"finished, {summary.missing} of other workers are missing; the last worker to finish completes the folder"
        )
        return 0
    print(
        f"{summary.clips} clips, {summary.frames} frames, {summary.size / 2**20:.1f} MiB in {summary.shards} shards of "
        f"{folder} ({summary.kept} were already there); to read them: --config.data.prepared={folder}"
    )
    return 0


COMMANDS: Mapping[str, cli.Command] = {"check": _check, "prepare": _prepare}


def run() -> None:
    """Runs the console entry point."""
    cli.run(COMMANDS, __name__, __doc__)


if __name__ == "__main__":
    run()
