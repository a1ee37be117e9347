"""Frames of a video file: which ones to take, and reading them.

A file that cannot give the frames it promises raises `VideoError`; nothing is ever replaced by black frames.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from hbi_jax.data.augment import Transform
from hbi_jax.data.decode import TIMEOUT, TOO_SHORT, OpenVideo, VideoError
from hbi_jax.data.images import resize_and_crop

__all__ = ["VideoError", "map_windows", "read_frames", "sample_indices"]

T = TypeVar("T")
# Beginning and end of a clip, in seconds, both included; `None` means those of the file.
Window = tuple[float | int | None, float | int | None]

# Pictures may end before the sound does; but a second before this share of the length, the file is truncated.
_SHORTEST_VIDEO = 0.9


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


def read_frames(
    path: str | pathlib.Path,
    max_frames: int,
    image_size: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
    transform: Transform | None = None,
    timeout: float | int = TIMEOUT,
) -> UInt8[np.ndarray, "n {image_size} {image_size} 3"]:
    """Decodes the frames that `sample_indices` names and gives them CLIP's size.

    Args:
      path: The file.
      max_frames: Most frames to return.
      image_size: Side of the square frames, in pixels.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      frames_per_second: Density of the sampling grid.
      transform: Changes each frame before it is resized.
      timeout: As `map_windows`.

    Returns:
      RGB in 0..255, between 1 and `max_frames` frames. Never filled up.

    Raises:
      VideoError: If the file is missing, empty, damaged, truncated, too large, too slow or no video, or ends before
        the clip.
      ValueError: As `sample_indices` and `resize_and_crop`.
    """

    def keep(picture: Image.Image) -> UInt8[np.ndarray, "s s 3"]:
        return resize_and_crop(picture if transform is None else transform(picture), image_size)

    (found,) = map_windows(keep, path, [(start, end)], max_frames, frames_per_second, timeout)
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
) -> list[list[T] | VideoError]:
    """Applies a function to the frames that `sample_indices` names, of several clips of a file that is decoded once.

    The number of frames is what the container declares. Where it declares none, or shows fewer (an edit list hides
    some), the frames are counted instead. A file that ends before what it declares, when a frame from there is
    needed, is unreadable.

    Args:
      keep: Makes of an RGB picture what is wanted of it; called once for a frame, whichever clips it is in.
      path: The file.
      windows: The clips of it.
      max_frames: Most frames of a clip.
      frames_per_second: Density of the sampling grid.
      timeout: Processor time that decoding may take, in seconds; 0: any.

    Returns:
      For each clip what `keep` gave for its frames, at least one, or why it cannot be read. It does not depend on the
      other clips.

    Raises:
      ValueError: As `sample_indices`.
    """
    read = functools.partial(_read, keep, path, max_frames, frames_per_second, timeout)
    try:
        return read(windows)
    except VideoError as error:
        if len(windows) == 1:
            return [error]
    # What is wrong may lie where only one of the clips reaches.
    return [
        found
        for window in windows
        for found in map_windows(keep, path, [window], max_frames, frames_per_second, timeout)
    ]


def _read(
    keep: Callable[[Image.Image], T],
    path: str | pathlib.Path,
    max_frames: int,
    frames_per_second: float,
    timeout: float | int,
    windows: Sequence[Window],
) -> list[list[T]]:
    def sampled(num_frames: int) -> list[list[int]]:
        found = [
            sample_indices(num_frames, fps, max_frames, start, end, frames_per_second).tolist()
            for start, end in windows
        ]
        if not all(found):
            raise VideoError(path, TOO_SHORT)
        return found

    def picture(pixels: UInt8[np.ndarray, "h w 3"]) -> T:
        return keep(Image.fromarray(pixels))

    with OpenVideo(path, timeout) as video:
        fps, length = video.frame_rate, video.seconds
        # Where only decoding tells how many frames there are, every frame of these is kept, then chosen among.
        grids = [_grid(sys.maxsize, fps, start, end, frames_per_second) for start, end in windows]
        last = max(grid[-1] for grid in grids)

        def check_length(frames: int, seconds: float) -> None:
            if frames <= last and seconds < length * _SHORTEST_VIDEO - 1:
                raise VideoError(path, f"truncated at {seconds:.1f} of the declared {length:.1f} s")

        num_frames = declared = video.declared
        if not declared:
            num_frames, seconds = video.count(last + 1)
            check_length(num_frames or sys.maxsize, seconds)
        if num_frames:
            clips = sampled(num_frames)
            decoded = video.decode(sorted(set().union(*clips)), picture)
            if all(number in decoded.kept for clip in clips for number in clip):
                return [[decoded.kept[number] for number in clip] for clip in clips]
            if decoded.packets < declared:
                raise VideoError(path, f"truncated: {decoded.packets} of the {declared} frames it declares are there")
        decoded = video.decode_all(lambda number: any(number in grid for grid in grids), last, picture)
        if not decoded.frames:
            raise VideoError(path, "no frame can be decoded")
        check_length(decoded.frames, decoded.seconds)
        return [[decoded.kept[number] for number in clip] for clip in sampled(decoded.frames)]


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
