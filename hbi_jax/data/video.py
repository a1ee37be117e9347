"""Samples frames of a video file and reads them.

Frames are chosen by the time at which they are shown; at a constant rate, this is the published rule. A file that lacks
frames it promises raises `VideoError`; missing frames are never replaced by black ones.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from hbi_jax.data.augment import Transform
from hbi_jax.data.decode import TIMEOUT, TOO_LATE, TOO_SHORT, OpenVideo, VideoError
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.timeline import CLOCK, Timeline

__all__ = [
    "VideoError",
    "frame_times",
    "map_windows",
    "middle",
    "read_frames",
    "sample_indices",
    "sample_times",
    "segment_places",
]

T = TypeVar("T")
# Beginning and end of a clip, in seconds, both included; `None` means those of the file.
Window = tuple[float | int | None, float | int | None]
# Where in its segment each sampled frame lies: 0 is its first frame, numbers below 1 lead up to its last.
Draws = tuple[float, ...]
# Longer grids are thinned evenly to this number of frames before they are divided into segments.
SEGMENTED_GRID = 512


def sample_indices(
    num_frames: int,
    fps: float,
    max_frames: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
    draws: Draws | None = None,
) -> Int[np.ndarray, " n"]:
    """Returns the numbers of the frames that represent a clip, by the rule of the published HBI code or by segments.

    The rule takes every `round(fps / frames_per_second)`-th frame of the clip. If these are more than `max_frames`, it
    takes `max_frames` of them, spread evenly from the first to the last and rounded down. With `draws`, it divides them
    into `max_frames` equal segments and takes a frame of each.

    Args:
      num_frames: Number of frames in the file.
      fps: Frames per second of the file.
      max_frames: Maximum number of frames to take.
      start, end: The clip in seconds, both ends included; `None` means the beginning and the end of the file.
      frames_per_second: Density of the grid; the published code takes 1.
      draws: Where in its segment each of `max_frames` frames lies; `None` takes evenly spread frames.

    Returns:
      Ascending frame numbers: at most `max_frames`, and none if the clip begins after the end of the file.

    Raises:
      ValueError: If a count or rate is not positive, or if the clip ends before it starts.
    """
    if max_frames < 1:
        raise ValueError(f"max_frames: got {max_frames}, wanted at least 1.")
    grid = _grid(num_frames, fps, start, end, frames_per_second)
    if draws is None:
        places = _spread(len(grid), max_frames)
    else:
        places = _spread(len(grid), SEGMENTED_GRID)
        places = places[segment_places(len(places), max_frames, draws)]
    return grid.start + grid.step * places


def segment_places(count: int, num_segments: int, draws: Draws) -> Int[np.ndarray, " n"]:
    """Returns which of `count` frames in order represent them: one of each of `num_segments` equal segments.

    If there are no more frames than segments, all of them are returned.

    Args:
      count: Number of frames.
      num_segments: Number of segments.
      draws: Where in its segment each frame lies.

    Raises:
      ValueError: If the number of draws differs from that of the segments, or a draw is not in [0, 1).
    """
    if len(draws) != num_segments or not all(0 <= draw < 1 for draw in draws):
        raise ValueError(f"draws: got {draws}, wanted {num_segments} numbers in [0, 1), one for each segment.")
    if count <= num_segments:
        return np.arange(count)
    edges = count * np.arange(num_segments + 1) // num_segments
    return edges[:-1] + (np.asarray(draws) * np.diff(edges)).astype(np.int64)


def middle(num_segments: int) -> Draws:
    """Returns the draws of the middle frame of each segment."""
    return (0.5,) * num_segments


def sample_times(
    timeline: Timeline,
    max_frames: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
    draws: Draws | None = None,
) -> Int[np.ndarray, " n"]:
    """Returns the numbers of the frames that represent a clip of a video, chosen by the times of the frames.

    At a constant rate, these are the frames of `sample_indices`. At a variable rate, the same rule is applied to the
    ticks of a clock, and each tick is replaced by the frame that a player shows at that time, so a picture that is
    shown for long is taken several times. Only the part of the clip in which the file shows pictures is sampled.

    Args:
      timeline: The timeline of the video.
      max_frames: Maximum number of frames to take.
      start, end: The clip in seconds, both ends included; `None` means the beginning and the end of the file.
      frames_per_second: Density of the grid.
      draws: As in `sample_indices`.

    Returns:
      Frame numbers in non-descending order: at most `max_frames`, and none if the file shows no picture within the
      clip.

    Raises:
      ValueError: As in `sample_indices`.
    """
    part = timeline.until(end)
    sample = functools.partial(sample_indices, max_frames=max_frames, frames_per_second=frames_per_second, draws=draws)
    if not len(part.times):
        return sample(1, 1.0, start=1.0, end=None)[:0]
    late = float(part.times[0])
    if part.is_constant:
        # A start later than the sound by less than one frame counts as 0.
        late = late if late >= part.interval else 0.0
        start, end = (None if time is None else max(0.0, time - late) for time in (start, end))
        return sample(len(timeline.times), part.rate, start=start, end=end)
    start = max(start or 0, late, 0)
    if end is not None and end < start:
        return np.zeros(0, np.int64)
    ticks = sample(max(1, math.ceil(part.end * CLOCK)), float(CLOCK), start=start, end=end)
    return part.shown(ticks / CLOCK)


def frame_times(
    path: str | pathlib.Path,
    max_frames: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
    draws: Draws | None = None,
    timeout: float | int = TIMEOUT,
) -> Float[np.ndarray, " n"]:
    """Returns the times of the frames that `sample_times` chooses, in seconds from the beginning of the presentation.

    Args:
      path: The file.
      max_frames, start, end, frames_per_second, draws: As for `sample_times`.
      timeout: Maximum processor time, in seconds; 0 means no limit.

    Raises:
      VideoError: If the file cannot be read.
    """
    with OpenVideo(path, timeout) as video:
        timeline = video.timeline()
    return timeline.times[sample_times(timeline, max_frames, start, end, frames_per_second, draws)]


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
    """Decodes the frames that `sample_times` chooses, and resizes and crops them for CLIP.

    Args:
      path: The file.
      max_frames: Maximum number of frames to return.
      image_size: Side of the square frames, in pixels.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      frames_per_second: Density of the sampling grid.
      transform: Applied to each frame before it is resized; `None` leaves the frames unchanged.
      timeout, square_pixels: As in `map_windows`.

    Returns:
      RGB in 0..255, between 1 and `max_frames` frames, without padding.

    Raises:
      VideoError: If the file is missing, empty, damaged, truncated or not a video, if its frames are too large or take
        too long to decode, or if it ends before the clip.
      ValueError: As in `sample_indices` and `resize_and_crop`.
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
    draws: Sequence[Draws | None] | None = None,
) -> list[list[T] | VideoError]:
    """Decodes a file once and applies a function to the frames that `sample_times` chooses for several clips.

    Times count, as in a player, from the beginning of the file's presentation. Of a truncated file, only clips that end
    before the cut can be read.

    Args:
      keep: Converts an RGB picture to the value to keep; called once per frame, even if several clips contain it.
      path: The file.
      windows: The clips of the file.
      max_frames: Maximum number of frames per clip.
      frames_per_second: Density of the sampling grid.
      timeout: Maximum processor time for decoding, in seconds; 0 means no limit.
      square_pixels: Whether to scale pictures with non-square pixels as a player does.
      draws: For each clip, where in its segment each frame lies; `None`, also for a single clip, takes evenly spread
        frames.

    Returns:
      For each clip the values of `keep` for its frames, at least one, or the error that makes it unreadable. The result
      for a clip does not depend on the other clips.

    Raises:
      ValueError: As in `sample_indices`.
    """
    draws = [None] * len(windows) if draws is None else draws
    settings = max_frames, frames_per_second, timeout, square_pixels
    try:
        return _read(keep, path, windows, *settings, draws)
    except VideoError as error:
        if len(windows) == 1:
            return [error]
    # The damage may affect only some of the clips, so read each clip alone.
    return [
        found
        for window, drawn in zip(windows, draws, strict=True)
        for found in map_windows(keep, path, [window], *settings, [drawn])
    ]


def _read(
    keep: Callable[[Image.Image], T],
    path: str | pathlib.Path,
    windows: Sequence[Window],
    max_frames: int,
    frames_per_second: float,
    timeout: float | int,
    square_pixels: bool,
    draws: Sequence[Draws | None],
) -> list[list[T]]:
    def picture(pixels: UInt8[np.ndarray, "h w 3"]) -> T:
        return keep(Image.fromarray(pixels))

    until = max(float("inf") if end is None else end for _, end in windows)
    with OpenVideo(path, timeout, square_pixels) as video:
        timeline = video.timeline(until)
        if until >= timeline.end:
            video.check_whole(timeline)
        clips = [
            sample_times(timeline, max_frames, *window, frames_per_second, drawn)
            for window, drawn in zip(windows, draws, strict=True)
        ]
        for (_, end), clip in zip(windows, clips, strict=True):
            if not len(clip):
                is_late = end is not None and timeline.times[0] > end
                raise VideoError(path, TOO_LATE if is_late else TOO_SHORT)
        kept = video.decode(sorted(set().union(*(clip.tolist() for clip in clips))), picture)
        return [[kept[number] for number in clip.tolist()] for clip in clips]


def _spread(count: int, max_frames: int) -> Int[np.ndarray, " n"]:
    """Returns all of `count` places or, if these are more than `max_frames`, that many, spread evenly."""
    # Do not materialise all of them: a damaged header may promise billions of frames.
    return np.arange(count) if count <= max_frames else np.linspace(0, count - 1, max_frames, dtype=np.int64)


def _grid(
    num_frames: int, fps: float, start: float | int | None, end: float | int | None, frames_per_second: float
) -> range:
    """Returns the evenly spaced frames of a clip, before they are reduced to `max_frames`."""
    for name, value in (("num_frames", num_frames), ("fps", fps), ("frames_per_second", frames_per_second)):
        if not value > 0:
            raise ValueError(f"{name}: got {value}, wanted more than 0.")
    if (start or 0) < 0 or (end is not None and end < (start or 0)):
        raise ValueError(f"start, end: got {start}, {end} s, wanted 0 <= start <= end.")
    first = 0 if start is None else int(start * fps)
    last = num_frames - 1 if end is None else min(int(end * fps), num_frames - 1)
    return range(first, last + 1, max(1, round(fps / frames_per_second)))
