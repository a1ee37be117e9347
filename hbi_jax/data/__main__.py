"""Looks at a data set before it is trained on.

  python -m hbi_jax.data check --config=configs/msrvtt.py --config.data.annotations=FOLDER --config.data.videos=FOLDER

check: decodes every video as training would and says what is wrong with which; exits with 1 where that is too many.

  python -m hbi_jax.data prepare --config=configs/msrvtt.py ... --out=FOLDER

prepare: writes the frames of all videos into a folder that is faster to read, by --config.data.prepared=FOLDER. A pass
that was broken off goes on where it was.
"""

import json
import os
import pathlib
import sys
from collections.abc import Mapping

from absl import flags
from ml_collections import ConfigDict

from hbi_jax import commands

_SPLITS = flags.DEFINE_list("splits", None, "Splits and galleries, such as train,val,test. By default all there are.")
_OUT = flags.DEFINE_string("out", None, "Folder that the results go to; made where it is missing.")
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Share of bad videos above which check exits with 1; by default config.data.max_unreadable_rate.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def _dataset() -> tuple[ConfigDict, str]:
    """The configuration, whose embedded world is rendered if it has one, and the work folder."""
    commands.wanted((commands.CONFIG, "configs/quickstart.py"))
    config = commands.CONFIG.value
    if any("{workdir}" in (config.data[field] or "") for field in ("annotations", "videos", "prepared")):
        commands.wanted((commands.WORKDIR, "runs/quickstart"))

    from hbi_jax import build
    from hbi_jax.config import validate
    from hbi_jax.data import shapes

    validate(config)
    workdir = commands.WORKDIR.value or ""
    if config.data.render == "shapes":
        shapes.generate(build.folder(config, "annotations", workdir), build.world(config))
    return config, workdir


def _check() -> int | None:
    """Checks the videos and texts of a configuration's data set."""
    config, workdir = _dataset()

    from hbi_jax import build
    from hbi_jax.data import check
    from hbi_jax.data.datasets import DataError

    # What prepared videos were made of is what is looked at.
    config = config.copy_and_resolve_references()
    config.data.prepared = ""
    known = ("train", *(("val",) if build.has_validation(config) else ()), *build.galleries(config))
    wanted = tuple(dict.fromkeys(_SPLITS.value or known))
    splits, broken = {}, {}
    for name in dict.fromkeys((*wanted, *known)):
        try:
            splits[name] = build.split(config, name, workdir)
        except DataError as error:
            broken[name] = str(error)
    out = pathlib.Path(_OUT.value) if _OUT.value else None
    if out is not None:
        # What is wrong with it is better told now than after hours.
        out.mkdir(parents=True, exist_ok=True)
    try:
        findings = check.check(
            [splits[name] for name in wanted if name in splits],
            build.tokenizer(config),
            config.data.num_frames,
            config.data.frames_per_second,
            others=[split for name, split in splits.items() if name not in wanted],
            broken={name: message for name, message in broken.items() if name in wanted},
            # Where annotations cannot be read, what they mention is not known.
            videos=None if broken else build.folder(config, "videos", workdir),
            timeout=config.data.video_timeout,
            square_pixels=config.data.square_pixels,
        )
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    print(findings.markdown(), end="")
    if out is not None:
        _write(out / "check.json", findings.json())
        _write(out / "check.md", findings.markdown())
        print(f"\nsaved {out / 'check.json'} and check.md")
    threshold = config.data.max_unreadable_rate if _THRESHOLD.value is None else _THRESHOLD.value
    return 0 if findings.is_acceptable(threshold) else 1


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _prepare() -> int | None:
    """Writes the frames of the videos of a configuration's data set."""
    config, workdir = _dataset()

    from hbi_jax import build
    from hbi_jax.data.prepare import prepare

    if not (_OUT.value or config.data.prepared):
        commands.wanted((_OUT, "prepared"))
    folder = pathlib.Path(_OUT.value) if _OUT.value else build.folder(config, "prepared", workdir)
    config = config.copy_and_resolve_references()
    config.data.prepared = ""
    # The published protocol's `val` is a gallery.
    held_out = build.has_validation(config) and config.data.protocol != "published"
    names = _SPLITS.value or ("train", *(("val",) if held_out else ()), *build.galleries(config))
    try:
        summary = prepare(
            [build.split(config, name, workdir) for name in dict.fromkeys(names)],
            build.folder(config, "videos", workdir),
            folder,
            build.prepare_settings(config),
            config.data.max_unreadable_rate,
            config.data.video_timeout,
            config=json.loads(config.to_json()),
        )
    except KeyboardInterrupt:
        print("interrupted; finished shards stay, and the same command goes on with the others", file=sys.stderr)
        return 130
    for name, unreadable in summary.unreadable.items():
        for reason in unreadable.values():
            print(f"not readable, of {name}: {reason}")
    print(
        f"{summary.clips} clips, {summary.frames} frames, {summary.size / 2**20:.1f} MiB in {summary.shards} shards of "
        f"{folder} ({summary.kept} were there); to read them: --config.data.prepared={folder}"
    )
    return 0


COMMANDS: Mapping[str, commands.Command] = {"check": _check, "prepare": _prepare}


def run() -> None:
    """The console entry point."""
    commands.run(COMMANDS, __name__, __doc__)


if __name__ == "__main__":
    run()
