"""Cuts videos into overlapping clips and reads their frames, with the times to jump to."""

import itertools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from hbi_jax.data.decode import TIMEOUT, TOO_SHORT, OpenVideo, VideoError
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.timeline import Timeline
from hbi_jax.data.video import sample_times
from hbi_jax.search.config import Cut, SearchError

# A video that is longer than a clip by at most this factor stays whole: cut in two, the parts would be mostly the same.
_WHOLE = 1.5
# Clips that are decoded together: a bound of the memory that long videos take.
PORTION = 64

# Beginning and end of a clip in seconds; `None`s for a whole file.
Span = tuple[float | None, float | None]


class ClipSettings(NamedTuple):
    """How a file becomes clips.

    Attributes:
      length, stride: Length of a clip and distance of two beginnings, in seconds.
      cut: Where clips begin, see `SearchConfig.cut`.
      num_frames: Maximum number of frames per clip.
      frames_per_second: Density of the grid of frames.
      image_size: Side of the square frames, in pixels.
      square_pixels: Whether to scale pictures with non-square pixels as a player does.
    """

    length: float
    stride: float
    cut: Cut
    num_frames: int
    frames_per_second: float
    image_size: int
    square_pixels: bool = True


class Clips(NamedTuple):
    """Decoded clips of one file.

    Attributes:
      start, end: The clips, in seconds.
      times: The time of each frame in seconds; repeated after the last frame.
      frames: RGB in 0..255; zero at padding.
      mask: True at real frames.
    """

    start: Float[np.ndarray, " n"]
    end: Float[np.ndarray, " n"]
    times: Float[np.ndarray, "n f"]
    frames: UInt8[np.ndarray, "n f h w 3"]
    mask: Bool[np.ndarray, "n f"]


class Stamp(NamedTuple):
    """What tells whether a file has changed: size in bytes and time of modification in nanoseconds."""

    size: int
    modified: int

    @staticmethod
    def of(path: str | os.PathLike[str]) -> "Stamp":
        """Reads the stamp of a file.

        Raises:
          OSError: If there is no such file.
        """
        found = os.stat(path)
        return Stamp(found.st_size, found.st_mtime_ns)


def spans(duration: float, length: float, stride: float, begin: float = 0.0) -> list[tuple[float, float]]:
    """Returns overlapping windows that cover a stretch of a video; the last one ends where the stretch ends.

    Args:
      duration: Length of the stretch in seconds.
      length, stride: Length of a window and distance of two beginnings, in seconds.
      begin: Beginning of the stretch in seconds.
    """
    if duration <= _WHOLE * length:
        return [(begin, begin + duration)]
    starts = [stride * number for number in range(1 + math.floor((duration - length) / stride + 1e-6))]
    if starts[-1] + length < duration - 1e-3:
        starts.append(duration - length)
    return [(begin + start, begin + start + length) for start in starts]


def shot_boundaries(path: str | os.PathLike[str]) -> list[float]:
    """Returns the times at which the shots of a video begin, without the first, by PySceneDetect.

    Raises:
      VideoError: If PySceneDetect cannot read the file.
      SearchError: If PySceneDetect is not installed.
    """
    try:
        import scenedetect
    except ImportError as error:
        raise SearchError(
            f"cut='shots': wanted PySceneDetect ({error}); pip install scenedetect opencv-python-headless, or use "
            "cut='windows'"
        ) from error
    try:
        scenes = scenedetect.detect(os.fspath(path), scenedetect.AdaptiveDetector())
    except Exception as error:
        # OpenCV does not read all files that PyAV reads. Its errors and PySceneDetect's have no common base.
        raise VideoError(path, f"its shots cannot be found ({error}); use cut='windows' for it") from error
    return [begin.get_seconds() for begin, _ in scenes[1:]]


def read_clips(
    path: str | os.PathLike[str], settings: ClipSettings, wanted: Sequence[Span] | None = None
) -> tuple[Clips, Sequence[Span]]:
    """Decodes the next clips of a file.

    Args:
      path: The file.
      settings: How it is cut.
      wanted: The clips that are left, as the call before returned them; None at first.

    Returns:
      At most `PORTION` clips, and those that are left.

    Raises:
      VideoError: If the file cannot be read, or is damaged anywhere.
      SearchError: If shots are wanted and PySceneDetect is not installed.
    """
    with OpenVideo(path, TIMEOUT, settings.square_pixels) as video:
        timeline = video.timeline()
        if wanted is None:
            video.check_whole(timeline)
            wanted = _cut(path, timeline, settings)
        now, later = wanted[:PORTION], wanted[PORTION:]
        chosen = [_frames_of(timeline, span, settings) for span in now]
        if not all(map(len, chosen)):
            raise VideoError(path, TOO_SHORT)
        numbers = sorted(set(itertools.chain.from_iterable(chosen)))
        kept = video.decode(numbers, lambda pixels: resize_and_crop(Image.fromarray(pixels), settings.image_size))
    clips = _empty(len(now), settings)
    for row, ((start, end), own) in enumerate(zip(now, chosen, strict=True)):
        clips.start[row] = 0.0 if start is None else start
        clips.end[row] = timeline.end if end is None else end
        clips.times[row] = timeline.times[[*own, *[own[-1]] * (settings.num_frames - len(own))]]
        clips.frames[row, : len(own)] = np.stack([kept[number] for number in own])
        clips.mask[row, : len(own)] = True
    return clips, later


def _cut(path: str | os.PathLike[str], timeline: Timeline, settings: ClipSettings) -> Sequence[Span]:
    bounds = [0.0, timeline.end]
    if settings.cut == "shots":
        inner = (time for time in shot_boundaries(path) if 0 < time < timeline.end)
        bounds[1:1] = sorted(inner)
    shots = [
        spans(end - begin, settings.length, settings.stride, begin)
        for begin, end in itertools.pairwise(bounds)
        if end > begin
    ]
    cut = list(itertools.chain.from_iterable(shots))
    # A whole file is read as evaluation reads it.
    return [(None, None)] if len(cut) == 1 else cut


def _frames_of(timeline: Timeline, span: Span, settings: ClipSettings) -> list[int]:
    start, end = span
    if end is not None:
        # Both ends count in `sample_times`: the frame at the end belongs to the next clip.
        end = max(start, min(end, timeline.end) - timeline.interval / 2)
    return sample_times(timeline, settings.num_frames, start, end, settings.frames_per_second).tolist()


def _empty(count: int, settings: ClipSettings) -> Clips:
    f, side = settings.num_frames, settings.image_size
    return Clips(
        np.zeros(count, np.float64),
        np.zeros(count, np.float64),
        np.zeros((count, f), np.float32),
        np.zeros((count, f, side, side, 3), np.uint8),
        np.zeros((count, f), bool),
    )


def pictures(path: str | os.PathLike[str], times: Sequence[float], side: int) -> list[Image.Image]:
    """Returns the pictures that a file shows at some times, with their proportions.

    Args:
      path: The file.
      times: The times, in seconds.
      side: Maximum length of the long side, in pixels.

    Raises:
      VideoError: If it cannot be read.
    """

    def small(pixels: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
        picture = Image.fromarray(pixels)
        picture.thumbnail((side, side))
        return picture

    with OpenVideo(path) as video:
        numbers = video.timeline(max(times)).shown(np.asarray(times)).tolist()
        kept = video.decode(sorted(set(numbers)), small)
    return [kept[number] for number in numbers]
