"""What is wrong with the videos and texts of a data set, found before they are trained on."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from hbi_jax.data.datasets.records import Split
from hbi_jax.data.datasets.videos import list_videos
from hbi_jax.data.decode import NO_FRAME_RATE, NO_VIDEO, TIMEOUT, TOO_LATE, TOO_SHORT, VideoError, not_found
from hbi_jax.data.facts import Facts, facts
from hbi_jax.data.processes import spread
from hbi_jax.data.text import Tokenizer, clean
from hbi_jax.data.timeline import Timeline
from hbi_jax.data.video import Window, map_windows, sample_indices

# What is found, and what it means. Of the videos, those with one of the first are bad: training leaves them out, or
# learns nothing from them. The others are used as they are.
BAD = {
    "missing": "there is no such file",
    "unreadable": "damaged, truncated or no video",
    "no video": "a file without video stream",
    "no frame rate": "states no frames a second, nor times to tell them from",
    "too short": "ends before the clip begins, or begins after it ends",
    "black": "all sampled frames are (nearly) black",
}
NOTED = {
    "annotations": "a split that cannot be read",
    "short": "fewer frames than the clip promises",
    "duplicated": "one video under several ids",
    "shared": "videos that are in several splits",
    "repeated": "the same text of the same video more than once",
    "unreferenced": "video files that no annotation mentions",
    "unnamed": "splits of a table that no field names, so that nothing reads them",
    "unusual": "read as players show them, but no plain files",
}
KINDS = {**BAD, **NOTED}

# A picture is black if fewer than this share of its values are above this one.
_DARK_SHARE, _DARK_VALUE = 0.001, 16
# The end that annotations state is rounded up: so many seconds may be missing.
_ROUNDED = 1.0
_NAMED_AT_MOST = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
      kind: A key of `KINDS`.
      subject: The video's id, the file or the split.
      reason: What is wrong with it.
      splits: Names of the splits that have it.
    """

    kind: str
    subject: str
    reason: str
    splits: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """The size of a split: texts, distinct videos, and how many of the texts are cut at the token limit."""

    texts: int
    videos: int
    texts_cut: int


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a check found.

    Attributes:
      splits: The facts of each split that was walked.
      num_videos: Distinct videos of all of them.
      problems: The findings, by kind in the order of `KINDS`.
      files: What each file is like that can be read; by its path.
    """

    splits: Mapping[str, SplitFacts]
    num_videos: int
    problems: Sequence[Problem]
    files: Mapping[str, Facts] = dataclasses.field(default_factory=dict)

    @property
    def num_bad(self) -> int:
        """How many of the videos are bad."""
        return sum(problem.kind in BAD for problem in self.problems)

    def is_acceptable(self, threshold: float) -> bool:
        """Whether every split can be read, and at most this share of the videos is bad."""
        broken = any(problem.kind == "annotations" for problem in self.problems)
        return not broken and self.num_bad <= threshold * self.num_videos

    def json(self) -> str:
        """Everything, for programs."""
        return json.dumps({**dataclasses.asdict(self), "num_bad": self.num_bad}, indent=2) + "\n"

    def markdown(self) -> str:
        """A summary for people, which names the first of each kind."""
        share = f" ({self.num_bad / self.num_videos:.2%})" if self.num_videos else ""
        lines = ["# Check of the data", "", f"{self.num_bad} of {self.num_videos} videos are bad{share}.", ""]
        lines += ["| split | texts | videos | texts cut |", "|---|---|---|---|"]
        for name, split in self.splits.items():
            cut = f"{split.texts_cut} ({split.texts_cut / split.texts:.1%})"
            lines.append(f"| {name} | {split.texts} | {split.videos} | {cut} |")
        for kind, meaning in KINDS.items():
            found = [problem for problem in self.problems if problem.kind == kind]
            if not found:
                continue
            lines += ["", f"## {kind}: {len(found)}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
            for problem in found[:_NAMED_AT_MOST]:
                splits = f" ({', '.join(problem.splits)})" if problem.splits else ""
                lines.append(f"- {problem.subject}{splits}: {problem.reason}")
            if len(found) > _NAMED_AT_MOST:
                lines.append(f"- and {len(found) - _NAMED_AT_MOST} more")
        return "\n".join(lines) + "\n"


def check(
    splits: Sequence[Split],
    tokenizer: Tokenizer,
    max_frames: int,
    frames_per_second: float = 1.0,
    *,
    others: Sequence[Split] = (),
    broken: Mapping[str, str] = types.MappingProxyType({}),
    videos: str | pathlib.Path | None = None,
    timeout: float | int = TIMEOUT,
    square_pixels: bool = True,
    num_processes: int | None = None,
    show_progress: bool = True,
) -> Findings:
    """Decodes every video of some splits as training would, and compares files and splits.

    Args:
      splits: What is walked.
      tokenizer: Cuts texts at its length.
      max_frames: Frames of a video at most.
      frames_per_second: Density of the grid that frames are sampled from.
      others: Splits that are not walked, but whose videos count as mentioned.
      broken: Why other splits, which should have been walked, cannot be read.
      videos: Folder in which no file should be that no split mentions. `None`: that is not looked at.
      timeout: Processor time that one video may take, in seconds; 0: any.
      square_pixels: As `map_windows`.
      num_processes: How many processes decode; 1: this one. `None`: one for each core, where videos are many.
      show_progress: Whether to report progress and remaining time on stderr.

    Returns:
      What was found.
    """
    names: dict[str, list[str]] = {}  # video id -> splits
    clips: dict[pathlib.Path, dict[str, Window]] = {}  # file -> video id -> clip
    for split in splits:
        for record in split.videos:
            names.setdefault(record.video_id, []).append(split.name)
            clips.setdefault(record.path, {})[record.video_id] = (record.start, record.end)
    settings = max_frames, frames_per_second, timeout, square_pixels
    jobs = [(path, tuple(windows.values()), *settings) for path, windows in clips.items()]
    seen = spread(inspect, jobs, "check videos", num_processes, show_progress)
    problems, sizes, files = [Problem("annotations", name, reason) for name, reason in broken.items()], {}, {}
    for (path, windows), result in zip(clips.items(), seen, strict=True):
        if result is None:
            result = Inspection(None, [Verdict("unreadable", "decoding it killed the process")] * len(windows))
        if result.size:
            sizes[path] = result.size
        if result.facts:
            files[str(path)] = result.facts
            if unusual := result.facts.unusual():
                mentioning = dict.fromkeys(name for video_id in windows for name in names[video_id])
                problems.append(Problem("unusual", str(path), ", ".join(unusual), list(mentioning)))
        for video_id, verdict in zip(windows, result.verdicts, strict=True):
            if verdict is not None:
                problems.append(Problem(verdict.kind, video_id, verdict.reason, names[video_id]))
    same = _same_files(clips, sizes, num_processes, show_progress)
    problems += [*_duplicated(clips, same, names), *_shared(splits, same), *_repeated(splits)]
    notes = dict.fromkeys(note for split in (*splits, *others) for note in split.notes)
    problems += [Problem("unnamed", *note.split(": ", 1)) for note in notes]
    if videos is not None:
        mentioned = {record.path for split in (*splits, *others) for record in split.records}
        unreferenced = (path for path in list_videos(videos) if path not in mentioned)
        problems += [Problem("unreferenced", str(path), "in no split") for path in unreferenced]
    order = list(KINDS)
    sizes_of_splits = {
        split.name: SplitFacts(
            len(split.records), split.num_videos, tokenizer.truncated([record.text for record in split.records])
        )
        for split in splits
    }
    return Findings(sizes_of_splits, len(names), sorted(problems, key=lambda problem: order.index(problem.kind)), files)


class Verdict(NamedTuple):
    """What is wrong with a clip: a key of `KINDS`, and the reason."""

    kind: str
    reason: str


class Inspection(NamedTuple):
    """The size of a file, in bytes, or `None`; what is wrong with each of its clips, or `None`; what it is like."""

    size: int | None
    verdicts: Sequence[Verdict | None]
    facts: Facts | None = None


def inspect(
    path: pathlib.Path,
    windows: Sequence[Window],
    max_frames: int,
    frames_per_second: float,
    timeout: float | int,
    square_pixels: bool = True,
) -> Inspection:
    """Looks at the clips of one file; arguments as those of `map_windows`."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        reason = not_found(path) if isinstance(error, FileNotFoundError) else error.strerror
        return Inspection(None, [Verdict("missing", f"{path}: {reason}")] * len(windows))
    clips = map_windows(_light, path, windows, max_frames, frames_per_second, timeout, square_pixels)
    try:
        found, timeline = facts(path, timeout)
    except VideoError:
        found, timeline = None, None  # why, the clips say
    judge = functools.partial(_judge, path, timeline, max_frames, frames_per_second)
    return Inspection(size, [judge(window, clip) for window, clip in zip(windows, clips, strict=True)], found)


def _judge(
    path: pathlib.Path,
    timeline: Timeline | None,
    max_frames: int,
    frames_per_second: float,
    window: Window,
    clip: list[float] | VideoError,
) -> Verdict | None:
    if isinstance(clip, VideoError):
        kinds = {NO_VIDEO: "no video", NO_FRAME_RATE: "no frame rate", TOO_SHORT: "too short", TOO_LATE: "too short"}
        return Verdict(kinds.get(clip.reason, "unreadable"), str(clip))
    if max(clip) < _DARK_SHARE:
        return Verdict("black", f"{path}: {len(clip)} frames without light")
    start, end = window
    if end is not None and timeline is not None:
        certain = max(start or 0, end - _ROUNDED - timeline.interval)
        clock = timeline.until(end).clock
        promised = len(sample_indices(sys.maxsize, clock, max_frames, start, certain, frames_per_second))
        if len(clip) < promised:
            return Verdict("short", f"{path}: {len(clip)} of {promised} frames")
    return None


def _light(picture: Image.Image) -> float:
    """The share of values that are not dark."""
    return float((np.asarray(picture) > _DARK_VALUE).mean())


def _same_files(
    paths: Iterable[pathlib.Path], sizes: Mapping[pathlib.Path, int], num_processes: int | None, show_progress: bool
) -> dict[pathlib.Path, pathlib.Path]:
    """For each file the first one of the same content. Only files of one size need to be read for that."""
    counts = collections.Counter(sizes.values())
    suspects = [path for path, size in sizes.items() if counts[size] > 1]
    jobs = [(path,) for path in suspects]
    hashes = spread(_content, jobs, "compare files of one size", num_processes, show_progress and bool(jobs))
    first: dict[tuple[int, str], pathlib.Path] = {}
    same = {path: path for path in paths}
    for path, content in zip(suspects, hashes, strict=True):
        same[path] = first.setdefault((sizes[path], content), path)
    return same


def _content(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _duplicated(
    clips: Mapping[pathlib.Path, Mapping[str, Window]],
    same: Mapping[pathlib.Path, pathlib.Path],
    names: Mapping[str, Sequence[str]],
) -> list[Problem]:
    """Clips that are the same part of the same content."""
    found: dict[tuple[pathlib.Path, Window], list[str]] = {}
    for path, windows in clips.items():
        for video_id, window in windows.items():
            found.setdefault((same[path], window), []).append(video_id)
    return [
        Problem(
            "duplicated",
            ids[0],
            f"the same as {', '.join(ids[1:])}",
            list(dict.fromkeys(name for video_id in ids for name in names[video_id])),
        )
        for ids in found.values()
        if len(ids) > 1
    ]


def _shared(splits: Sequence[Split], same: Mapping[pathlib.Path, pathlib.Path]) -> list[Problem]:
    """Files that two splits have in common."""
    files = {split.name: {same[record.path] for record in split.videos} for split in splits}
    pairs = [(one, other) for place, one in enumerate(files) for other in list(files)[place + 1 :]]
    problems = []
    for one, other in pairs:
        if common := sorted(str(path) for path in files[one] & files[other]):
            rest = f" and {len(common) - 1} more" if len(common) > 1 else ""
            problems.append(Problem("shared", f"{len(common)} videos", f"{common[0]}{rest}", (one, other)))
    return problems


def _repeated(splits: Sequence[Split]) -> list[Problem]:
    problems = []
    for split in splits:
        counts = collections.Counter((record.video_id, clean(record.text), record.answer) for record in split.records)
        problems += [
            Problem("repeated", video_id, f"{text!r} {count} times", (split.name,))
            for (video_id, text, _), count in counts.items()
            if count > 1
        ]
    return problems
