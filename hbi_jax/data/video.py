"""Frames of a video file: which ones to take, and reading them.

A frame is chosen by the time at which it is shown; where the rate is constant, this is the published rule. A file that
cannot give the frames it promises raises `VideoError`; nothing is ever replaced by black frames.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from hbi_jax.data.augment import Transform
from hbi_jax.data.decode import TIMEOUT, TOO_LATE, TOO_SHORT, OpenVideo, VideoError
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.timeline import CLOCK, Timeline

__all__ = ["VideoError", "map_windows", "read_frames", "sample_indices", "sample_times"]

T = TypeVar("T")
# Beginning and end of a clip, in seconds, both included; `None` means those of the file.
Window = tuple[float | int | None, float | int | None]


def sample_indices(
    num_frames: int,
    fps: float,
    max_frames: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
) -> Int[np.ndarray, " n"]:
    """Numbers of the frames that stand for a clip, by the rule of the published HBI code.

    One frame every `round(fps / frames_per_second)` frames of the clip; if those are more than `max_frames`,
    that many of them, evenly spread from the first to the last and rounded down.

    Args:
      num_frames: Frames in the file.
      fps: Frames a second of the file.
      max_frames: Most frames to take.
      start, end: The clip in seconds, both ends included; `None` means the beginning and the end of the file.
      frames_per_second: Density of the grid; the published code takes 1.

    Returns:
      Ascending frame numbers: at most `max_frames`, and none if the clip begins after the end of the file.

    Raises:
      ValueError: If a count or rate is not positive, or if the clip ends before it starts.
    """
    if max_frames < 1:
        raise ValueError(f"max_frames: got {max_frames}, wanted at least 1.")
    grid = _grid(num_frames, fps, start, end, frames_per_second)
    # The grid itself is not made: a damaged header may promise thousands of millions of frames.
    places = (
        np.arange(len(grid)) if len(grid) <= max_frames else np.linspace(0, len(grid) - 1, max_frames, dtype=np.int64)
    )
    return grid.start + grid.step * places


def sample_times(
    timeline: Timeline,
    max_frames: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
) -> Int[np.ndarray, " n"]:
    """Numbers of the frames that stand for a clip of a video, by the times at which they are shown.

    Where the rate is constant, these are the frames of `sample_indices`. Elsewhere the same rule is applied to the
    ticks of a clock, and each stands for the frame that a player shows then: a picture that stays for long is taken
    several times. Of a clip it takes the part in which the file shows pictures.

    Args:
      timeline: When the frames are shown.
      max_frames: Most frames to take.
      start, end: The clip in seconds, both ends included; `None` means the beginning and the end of the file.
      frames_per_second: Density of the grid.

    Returns:
      Frame numbers that do not descend: at most `max_frames`, and none if the file shows no picture within the clip.

    Raises:
      ValueError: As `sample_indices`.
    """
    part = timeline.until(end)
    sample = functools.partial(sample_indices, max_frames=max_frames, frames_per_second=frames_per_second)
    if not len(part.times):
        return sample(1, 1.0, start=1.0, end=None)[:0]
    late = float(part.times[0])
    if part.is_constant:
        # Pictures that start with the sound, but for less than one of them, start at 0.
        late = late if late >= part.interval else 0.0
        start, end = (None if time is None else max(0.0, time - late) for time in (start, end))
        return sample(len(timeline.times), part.rate, start=start, end=end)
    start = max(start or 0, late, 0)
    if end is not None and end < start:
        return np.zeros(0, np.int64)
    ticks = sample(max(1, math.ceil(part.end * CLOCK)), float(CLOCK), start=start, end=end)
    return part.shown(ticks / CLOCK)


def read_frames(
    path: str | pathlib.Path,
    max_frames: int,
    image_size: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
    transform: Transform | None = None,
    timeout: float | int = TIMEOUT,
    square_pixels: bool = True,
) -> UInt8[np.ndarray, "n {image_size} {image_size} 3"]:
    """Decodes the frames that `sample_times` names and gives them CLIP's size.

    Args:
      path: The file.
      max_frames: Most frames to return.
      image_size: Side of the square frames, in pixels.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      frames_per_second: Density of the sampling grid.
      transform: Changes each frame before it is resized.
      timeout, square_pixels: As `map_windows`.

    Returns:
      RGB in 0..255, between 1 and `max_frames` frames. Never filled up.

    Raises:
      VideoError: If the file is missing, empty, damaged, truncated, too large, too slow or no video, or ends before
        the clip.
      ValueError: As `sample_indices` and `resize_and_crop`.
    """

    def keep(picture: Image.Image) -> UInt8[np.ndarray, "s s 3"]:
        return resize_and_crop(picture if transform is None else transform(picture), image_size)

    (found,) = map_windows(keep, path, [(start, end)], max_frames, frames_per_second, timeout, square_pixels)
    if isinstance(found, VideoError):
        raise found
    return np.stack(found)


def map_windows(
    keep: Callable[[Image.Image], T],
    path: str | pathlib.Path,
    windows: Sequence[Window],
    max_frames: int,
    frames_per_second: float = 1.0,
    timeout: float | int = TIMEOUT,
    square_pixels: bool = True,
) -> list[list[T] | VideoError]:
    """Applies a function to the frames that `sample_times` names, of several clips of a file that is decoded once.

    Times are those of a player, from the beginning of the file's presentation. A file that was cut is unreadable, but
    for clips that end before the cut.

    Args:
      keep: Makes of an RGB picture what is wanted of it; called once for a frame, whichever clips it is in.
      path: The file.
      windows: The clips of it.
      max_frames: Most frames of a clip.
      frames_per_second: Density of the sampling grid.
      timeout: Processor time that decoding may take, in seconds; 0: any.
      square_pixels: Whether pictures whose pixels are not square are scaled as a player does it.

    Returns:
      For each clip what `keep` gave for its frames, at least one, or why it cannot be read. It does not depend on the
      other clips.

    Raises:
      ValueError: As `sample_indices`.
    """
    read = functools.partial(_read, keep, path, max_frames, frames_per_second, timeout, square_pixels)
    try:
        return read(windows)
    except VideoError as error:
        if len(windows) == 1:
            return [error]
    # What is wrong may lie where only one of the clips reaches.
    return [
        found
        for window in windows
        for found in map_windows(keep, path, [window], max_frames, frames_per_second, timeout, square_pixels)
    ]


def _read(
    keep: Callable[[Image.Image], T],
    path: str | pathlib.Path,
    max_frames: int,
    frames_per_second: float,
    timeout: float | int,
    square_pixels: bool,
    windows: Sequence[Window],
) -> list[list[T]]:
    def picture(pixels: UInt8[np.ndarray, "h w 3"]) -> T:
        return keep(Image.fromarray(pixels))

    until = max(float("inf") if end is None else end for _, end in windows)
    with OpenVideo(path, timeout, square_pixels) as video:
        timeline = video.timeline(until)
        if until >= timeline.end:
            video.check_whole(timeline)
        clips = [sample_times(timeline, max_frames, start, end, frames_per_second) for start, end in windows]
        for (_, end), clip in zip(windows, clips, strict=True):
            if not len(clip):
                is_late = end is not None and timeline.times[0] > end
                raise VideoError(path, TOO_LATE if is_late else TOO_SHORT)
        kept = video.decode(sorted(set().union(*(clip.tolist() for clip in clips))), picture)
        return [[kept[number] for number in clip.tolist()] for clip in clips]


def _grid(
    num_frames: int, fps: float, start: float | int | None, end: float | int | None, frames_per_second: float
) -> range:
    """The evenly spaced frames of a clip, before they are thinned to a number."""
    for name, value in (("num_frames", num_frames), ("fps", fps), ("frames_per_second", frames_per_second)):
        if not value > 0:
            raise ValueError(f"{name}: got {value}, wanted more than 0.")
    if (start or 0) < 0 or (end is not None and end < (start or 0)):
        raise ValueError(f"start, end: got {start}, {end} s, wanted 0 <= start <= end.")
    first = 0 if start is None else int(start * fps)
    last = num_frames - 1 if end is None else min(int(end * fps), num_frames - 1)
    return range(first, last + 1, max(1, round(fps / frames_per_second)))
