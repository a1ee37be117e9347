"""Frames of a video file: which ones to take, and decoding them.

A file that cannot give the frames it promises raises `VideoError`; nothing is ever replaced by black frames.
"""

import pathlib
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from hbi_jax.data.augment import Transform
from hbi_jax.data.images import resize_and_crop

# Pictures may end before the sound does; but a second before this share of the length, the file is truncated.
_SHORTEST_VIDEO = 0.9


class VideoError(ValueError):
    """A video that cannot be read.

    Attributes:
      path: The file.
      reason: What is wrong with it, without the path.
    """

    def __init__(self, path: str | pathlib.Path, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


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
    grid = np.asarray(_grid(num_frames, fps, start, end, frames_per_second), np.int64)
    if len(grid) > max_frames:
        grid = grid[np.linspace(0, len(grid) - 1, max_frames, dtype=np.int64)]
    return grid


def read_frames(
    path: str | pathlib.Path,
    max_frames: int,
    image_size: int,
    start: float | int | None = None,
    end: float | int | None = None,
    frames_per_second: float = 1.0,
    transform: Transform | None = None,
) -> UInt8[np.ndarray, "n {image_size} {image_size} 3"]:
    """Decodes the frames that `sample_indices` names and gives them CLIP's size.

    The file is decoded from its beginning up to the last frame that is needed (seeking is faster only where
    key frames are many); only the frames that are kept become RGB. The number of frames is what the container
    declares. Where it declares none, or shows fewer (an edit list hides some), the frames are counted
    instead. A file that ends before what it declares, when a frame from there is needed, is unreadable.

    Args:
      path: The file.
      max_frames: Most frames to return.
      image_size: Side of the square frames, in pixels.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      frames_per_second: Density of the sampling grid.
      transform: Changes each frame before it is resized.

    Returns:
      RGB in 0..255, between 1 and `max_frames` frames. Never filled up.

    Raises:
      VideoError: If the file is missing, empty, damaged, truncated or no video, or ends before the clip.
      ValueError: As `sample_indices` and `resize_and_crop`.
    """
    try:
        with _open(path) as container:
            stream = _video_stream(path, container)
            fps = _frame_rate(path, stream.average_rate, stream.guessed_rate)
            declared = stream.frames
            if declared > 0:
                indices = sample_indices(declared, fps, max_frames, start, end, frames_per_second)
                decoded = _decode(path, container, stream, indices.tolist(), image_size, transform)
                if len(decoded.pictures) == len(indices):
                    return _stack(decoded, indices)
                if decoded.packets < declared:
                    raise VideoError(
                        path, f"truncated: {decoded.packets} of the {declared} frames it declares are there"
                    )
        # Only decoding tells how many frames there are: keep every frame of the grid, then choose among them.
        with _open(path) as container:
            grid = _grid(sys.maxsize, fps, start, end, frames_per_second)
            decoded = _decode(path, container, _video_stream(path, container), grid, image_size, transform)
            length = (container.duration or 0) / av.time_base
        if not decoded.pictures:
            raise VideoError(path, f"no frame of the clip can be decoded, of {decoded.frames} in the file")
        if decoded.frames <= grid[-1] and decoded.seconds < length * _SHORTEST_VIDEO - 1:
            raise VideoError(path, f"truncated at {decoded.seconds:.1f} of the declared {length:.1f} s")
        indices = sample_indices(decoded.frames, fps, max_frames, start, end, frames_per_second)
        return _stack(decoded, indices)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(path, error.strerror or str(error)) from error


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


class _Decoded(NamedTuple):
    """Frames that were kept, by number; how many frames and packets went by; the time of the last frame."""

    pictures: dict[int, UInt8[np.ndarray, "s s 3"]]
    frames: int
    packets: int
    seconds: float


def _open(path: str | pathlib.Path) -> av.container.InputContainer:
    # A title in an unknown encoding is no reason to refuse a video.
    return av.open(str(path), metadata_errors="ignore")


def _video_stream(path: str | pathlib.Path, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise VideoError(path, "holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError(path, "no decoder for its video stream")
    stream.thread_type = "SLICE"
    # Clips are read several at once; threads within a small one then only get in the way of the others.
    stream.codec_context.thread_count = 1
    return stream


def _frame_rate(path: str | pathlib.Path, average: Fraction | None, guessed: Fraction | None) -> float:
    """Frames a second: the average or, where there is none (some .3gp, .mpg files), the demuxer's guess."""
    if not average and not guessed:
        raise VideoError(path, "states no frame rate")
    return float(average or guessed)


def _decode(
    path: str | pathlib.Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    wanted: Sequence[int],
    image_size: int,
    transform: Transform | None,
) -> _Decoded:
    """Decodes until the last wanted frame or the end of the file; keeps the wanted frames, changed and resized."""
    if not wanted:
        raise VideoError(path, "ends before the wanted clip starts")
    pictures: dict[int, np.ndarray] = {}
    frames = packets = 0
    seconds = 0.0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError(path, f"truncated or damaged after {packets} packets")
        packets += packet.size > 0  # the last, empty one only drains the decoder
        for frame in packet.decode():
            if frames in wanted:
                if frame.is_corrupt:
                    raise VideoError(path, f"frame {frames} is damaged")
                picture = frame.to_ndarray(format="rgb24")
                if transform is not None:
                    picture = transform(Image.fromarray(picture))
                pictures[frames] = resize_and_crop(picture, image_size)
            frames += 1
            seconds = frame.time or seconds
            if frames > wanted[-1]:
                return _Decoded(pictures, frames, packets, seconds)
    return _Decoded(pictures, frames, packets, seconds)


def _stack(decoded: _Decoded, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n s s 3"]:
    return np.stack([decoded.pictures[index] for index in indices.tolist()])
