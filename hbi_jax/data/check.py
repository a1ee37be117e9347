"""Finds problems in the videos and texts of a data set before training."""

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

# Kinds of problems and their meaning. Videos with a problem in BAD are bad: training skips them or learns nothing from
# them. Videos with a problem in NOTED are used as they are.
BAD = {
    "missing": "the file does not exist",
    "unreadable": "damaged, truncated or not a video",
    "no video": "the file has no video stream",
    "no frame rate": "the file states neither a frame rate nor the times of its frames",
    "too short": "the video ends before the clip begins, or begins after the clip ends",
    "black": "all sampled frames are (nearly) black",
}
NOTED = {
    "annotations": "the annotations of a split cannot be read",
    "short": "the clip has fewer frames than its start and end promise",
    "duplicated": "the same video under several ids",
    "shared": "videos that occur in several splits",
    "repeated": "the same text occurs more than once for the same video",
    "unreferenced": "video files that no annotation mentions",
    "unnamed": "splits of a table that no configuration field names and that are therefore never read",
    "unusual": "files with uncommon properties, read the way a player shows them",
}
KINDS = {**BAD, **NOTED}

# A picture is black if less than this share of its values exceeds this value.
_DARK_SHARE, _DARK_VALUE = 0.001, 16
# Annotations round the end of a clip up, so the video may end this many seconds earlier.
_ROUNDED = 1.0
_NAMED_AT_MOST = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
      kind: A key of `KINDS`.
      subject: The id of the video, the path of the file or the name of the split.
      reason: The cause.
      splits: Names of the splits that contain the subject.
    """

    kind: str
    subject: str
    reason: str
    splits: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """The size of a split: the numbers of texts, of distinct videos, and of texts cut at the token limit."""

    texts: int
    videos: int
    texts_cut: int


@dataclasses.dataclass(frozen=True)
class Findings:
    """The result of a check.

    Attributes:
      splits: The size of each checked split, by name.
      num_videos: Number of distinct videos in these splits.
      problems: The problems, sorted by kind in the order of `KINDS`.
      files: The properties of each readable file, by path.
    """

    splits: Mapping[str, SplitFacts]
    num_videos: int
    problems: Sequence[Problem]
    files: Mapping[str, Facts] = dataclasses.field(default_factory=dict)

    @property
    def num_bad(self) -> int:
        """The number of bad videos."""
        return sum(problem.kind in BAD for problem in self.problems)

    def is_acceptable(self, threshold: float) -> bool:
        """Returns whether every split can be read and at most this share of the videos is bad."""
        broken = any(problem.kind == "annotations" for problem in self.problems)
        return not broken and self.num_bad <= threshold * self.num_videos

    def json(self) -> str:
        """Returns all findings as JSON, for programs."""
        return json.dumps({**dataclasses.asdict(self), "num_bad": self.num_bad}, indent=2) + "\n"

    def markdown(self) -> str:
        """Returns a summary in Markdown, which lists the first problems of each kind."""
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
      splits: The splits to check.
      tokenizer: The tokenizer; its length determines which texts are cut.
      max_frames: Maximum number of frames per video.
      frames_per_second: Density of the grid that frames are sampled from.
      others: Splits that are not checked, but whose videos count as mentioned.
      broken: For each split that was to be checked but cannot be read, by name, the reason.
      videos: Folder whose files should all be mentioned by a split; `None` skips this check.
      timeout: Maximum processor time per video, in seconds; 0 means no limit.
      square_pixels: As in `map_windows`.
      num_processes: Number of decoding processes; 1 decodes in this process. `None` uses one per core if there are
        many videos.
      show_progress: Whether to report progress and remaining time on stderr.

    Returns:
      The findings.
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
            result = Inspection(None, [Verdict("unreadable", "decoding the file killed the process")] * len(windows))
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
    problems += [Problem("unnamed", *note) for note in notes]
    if videos is not None:
        mentioned = {record.path for split in (*splits, *others) for record in split.records}
        unreferenced = (path for path in list_videos(videos, unlisted=lambda error: None) if path not in mentioned)
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
    """The problem of a clip: a key of `KINDS`, and the reason."""

    kind: str
    reason: str


class Inspection(NamedTuple):
    """The result for one file.

    Attributes:
      size: Size of the file in bytes; `None` if it is missing.
      verdicts: The problem of each clip; `None` for a good clip.
      facts: The properties of the file; `None` if it cannot be read.
    """

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
    """Inspects the clips of one file; the arguments are those of `map_windows`."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        reason = not_found(path) if isinstance(error, FileNotFoundError) else error.strerror
        return Inspection(None, [Verdict("missing", f"{path}: {reason}")] * len(windows))
    clips = map_windows(_light, path, windows, max_frames, frames_per_second, timeout, square_pixels)
    try:
        found, timeline = facts(path, timeout)
    except VideoError:
        found, timeline = None, None  # the verdicts of the clips give the reason
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
        return Verdict("black", f"{path}: all {len(clip)} frames are black")
    start, end = window
    if end is not None and timeline is not None:
        certain = max(start or 0, end - _ROUNDED - timeline.interval)
        clock = timeline.until(end).clock
        promised = len(sample_indices(sys.maxsize, clock, max_frames, start, certain, frames_per_second))
        if len(clip) < promised:
            return Verdict("short", f"{path}: {len(clip)} of {promised} frames")
    return None


def _light(picture: Image.Image) -> float:
    """Returns the share of values that are not dark."""
    return float((np.asarray(picture) > _DARK_VALUE).mean())


def _same_files(
    paths: Iterable[pathlib.Path], sizes: Mapping[pathlib.Path, int], num_processes: int | None, show_progress: bool
) -> dict[pathlib.Path, pathlib.Path]:
    """Returns, for each file, the first file with the same content.

    Only files that share their size with another file are read.
    """
    counts = collections.Counter(sizes.values())
    suspects = [path for path, size in sizes.items() if counts[size] > 1]
    jobs = [(path,) for path in suspects]
    hashes = spread(_content, jobs, "compare files of equal size", num_processes, show_progress and bool(jobs))
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
    """Returns a problem for each group of clips that show the same part of the same content."""
    found: dict[tuple[pathlib.Path, Window], list[str]] = {}
    for path, windows in clips.items():
        for video_id, window in windows.items():
            found.setdefault((same[path], window), []).append(video_id)
    return [
        Problem(
            "duplicated",
            ids[0],
            f"same clip as {', '.join(ids[1:])}",
            list(dict.fromkeys(name for video_id in ids for name in names[video_id])),
        )
        for ids in found.values()
        if len(ids) > 1
    ]


def _shared(splits: Sequence[Split], same: Mapping[pathlib.Path, pathlib.Path]) -> list[Problem]:
    """Returns a problem for each pair of splits that share files."""
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
