"""Decoding of the frames of a video file that are wanted, by number, within limits of time and memory.

Where the container tells which packet is which frame, only what the wanted frames are predicted from is decoded:
whole groups of pictures are passed over, and within a group the frames that no other refers to. Elsewhere everything is
decoded, from the beginning to the last wanted frame. Both give the same pixels.
"""

import bisect
import os
import pathlib
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

# Makes of a frame, RGB in 0..255, what is wanted of it.
Keep = Callable[[UInt8[np.ndarray, "h w 3"]], Any]

# Processor time that one file may take, in seconds.
TIMEOUT = 120.0
# Largest frame, twice 8K, in pixels: beyond, the header is damaged, and decoding would ask for memory by the gigabyte.
# FFmpeg calls such a file invalid.
_MAX_PIXELS = {"max_pixels": str(2**26)}
# A title in an unknown encoding is no reason to refuse a video. From version 19 on PyAV never does.
_METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
# Longest side, in short ones; resized to a short side of 224, more would be gigabytes as well.
_LONGEST_SIDE = 256

# Reasons that are told apart.
NO_VIDEO = "holds no video stream"
NO_FRAME_RATE = "states no frame rate"
TOO_SHORT = "ends before the wanted clip starts"

# FFmpeg opens much more, such as pictures, text and lists of other files.
_CONTAINERS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg"
# Where each packet is one frame and says when it is shown: of these containers, with these codecs.
_INDEXED_CONTAINERS = ("mov", "matroska")
_INDEXED_CODECS = ("h264", "hevc", "vp9", "av1", "libdav1d")


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


class Decoded(NamedTuple):
    """What was kept, by frame number; how many frames and packets went by; the time of the last frame in seconds."""

    kept: dict[int, Any]
    frames: int
    packets: int
    seconds: float


class OpenVideo:
    """The video stream of a file. A context manager.

    Its methods read the file from the beginning, and raise `VideoError` where it is damaged or takes too long.
    """

    def __init__(self, path: str | pathlib.Path, timeout: float | int = TIMEOUT):
        """Opens nothing yet.

        Args:
          path: The file.
          timeout: Processor time that all reading may take together, in seconds; 0: any. It is this thread's, so that
            other work on the machine condemns no video.
        """
        self._path, self._timeout = path, timeout
        self._container: av.container.InputContainer | None = None

    def __enter__(self) -> "OpenVideo":
        self._end = time.thread_time() + self._timeout if self._timeout else float("inf")
        try:
            mode = os.stat(self._path).st_mode
            if not stat.S_ISREG(mode):
                # Waiting for what a pipe may send would have no end.
                raise self._error("Is a directory" if stat.S_ISDIR(mode) else "no regular file, but a pipe or device")
            self._open()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, error_type: object, error: BaseException | None, traceback: object) -> None:
        if self._container is not None:
            self._container.close()
        if error is not None and self._translated(error) is not error:
            raise self._translated(error) from error

    def _open(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = av.open(
            str(self._path),
            options=_MAX_PIXELS,
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
            timeout=self._timeout or None,
            **_METADATA,
        )
        if not self._container.streams.video:
            raise self._error(NO_VIDEO)
        self._stream = self._container.streams.video[0]
        context = self._stream.codec_context
        if context is None:
            raise self._error("no decoder for its video stream")
        self._check_size(context.width, context.height)
        context.options = _MAX_PIXELS
        context.thread_type = "SLICE"
        # Clips are read several at once; threads within a small one then only get in the way of the others.
        context.thread_count = 1
        self._context, self._packets = context, 0

    @property
    def declared(self) -> int:
        """How many frames the container says there are; 0 where it says nothing."""
        return max(0, self._stream.frames)

    @property
    def seconds(self) -> float:
        """How long the container says the file lasts; 0 where it says nothing."""
        return (self._container.duration or 0) / av.time_base

    @property
    def frame_rate(self) -> float:
        """Frames a second: the average, or the demuxer's guess, or else (some .3gp, .mpg files) that of the packets."""
        rate = self._stream.average_rate or self._stream.guessed_rate or self._measured_rate()
        if not rate:
            raise self._error(NO_FRAME_RATE)
        return float(rate)

    def _measured_rate(self) -> float:
        times = [packet.dts for packet in self._demux() if packet.dts is not None]
        span = float((max(times) - min(times)) * self._stream.time_base) if times else 0
        return (len(times) - 1) / span if span > 0 else 0.0

    def count(self, most: int) -> tuple[int, float]:
        """How many frames there are, counted up to `most`, and the time of the last, in seconds.

        0, 0.0 where only decoding would tell.
        """
        count, latest = 0, 0
        for packet in self._demux() if self._is_indexed() else ():
            count, latest = count + 1, max(latest, packet.pts or 0)
            if count >= most:
                break
        return count, float(latest * self._stream.time_base)

    def decode(self, wanted: Sequence[int], keep: Keep) -> Decoded:
        """Decodes the wanted frames, and others only where these need them or the container leaves no choice.

        Args:
          wanted: Numbers of frames, ascending and distinct.
          keep: What to make of each.

        Returns:
          What was kept. A number that is missing is not in the file.
        """
        found = self._decode_groups(wanted, keep) if self._is_indexed() else None
        return found or self.decode_all(set(wanted).__contains__, wanted[-1], keep)

    def decode_all(self, is_wanted: Callable[[int], bool], last: int, keep: Keep) -> Decoded:
        """Decodes everything up to frame `last` or the end of the file, and keeps the wanted frames."""
        kept, frames, seconds = {}, 0, 0.0
        for packet in self._demux(drain=True):
            for frame in packet.decode():
                if is_wanted(frames):
                    kept[frames] = keep(self._pixels(frame, frames))
                frames += 1
                seconds = frame.time or seconds
                if frames > last:
                    return Decoded(kept, frames, self._packets, seconds)
        return Decoded(kept, frames, self._packets, seconds)

    def _is_indexed(self) -> bool:
        names = self._container.format.name.split(",")
        return self._context.name in _INDEXED_CODECS and any(name in names for name in _INDEXED_CONTAINERS)

    def _decode_groups(self, wanted: Sequence[int], keep: Keep) -> Decoded | None:
        """As `decode`; `None` where packets turn out not to be frames of their own, in groups of their own."""
        kept: dict[int, Any] = {}
        first = latest = 0  # number of the group's first frame; time of the last frame
        for group in self._groups():
            times = sorted({packet.pts for packet in group if packet.pts is not None and not packet.is_discard})
            # Frames that are shown before the key frame of their group need the group before.
            whole = len(times) == len(group) and group[0].is_keyframe and group[0].pts == times[0]
            if not whole or (first and times[0] <= latest):
                return None
            part = wanted[bisect.bisect_left(wanted, first) : bisect.bisect_left(wanted, first + len(group))]
            if part:
                numbers = {times[number - first]: number for number in part}
                for frame in self._decode_group(group, numbers):
                    kept[numbers[frame.pts]] = keep(self._pixels(frame, numbers[frame.pts]))
                if not all(number in kept for number in part):
                    return None
            first, latest = first + len(group), times[-1]
            if first > wanted[-1]:
                break
        return Decoded(kept, first, self._packets, float(latest * self._stream.time_base))

    def _groups(self) -> Iterator[list[av.Packet]]:
        """The packets from one key frame to the next."""
        group: list[av.Packet] = []
        for packet in self._demux():
            if packet.is_keyframe and group:
                yield group
                group = []
            group.append(packet)
        if group:
            yield group

    def _decode_group(self, group: Sequence[av.Packet], times: Collection[int]) -> Iterator[av.VideoFrame]:
        """The frames of these times of a group."""
        last = max(place for place, packet in enumerate(group) if packet.pts in times)
        self._context.flush_buffers()
        for packet in (*group[: last + 1], None):  # None: what the decoder still holds
            self._check_time()
            self._context.skip_frame = "DEFAULT" if packet is None or packet.pts in times else "NONREF"
            yield from (frame for frame in self._context.decode(packet) if frame.pts in times)

    def _demux(self, drain: bool = False) -> Iterator[av.Packet]:
        """The packets of the stream from the beginning; with `drain` also the empty one that empties the decoder."""
        if self._packets:
            self._open()
        for packet in self._container.demux(self._stream):
            self._check_time()
            if packet.is_corrupt:
                raise self._error(f"truncated or damaged after {self._packets} packets")
            self._packets += packet.size > 0
            if packet.size or drain:
                yield packet

    def _pixels(self, frame: av.VideoFrame, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB as a player shows it: telephones store upright pictures lying, with the angle beside them."""
        self._check_time()
        if frame.is_corrupt:
            raise self._error(f"frame {number} is damaged")
        self._check_size(frame.width, frame.height)
        # One thread, for the same reason as in decoding.
        pixels = frame.reformat(format="rgb24", threads=1).to_ndarray()
        turns, rest = divmod(frame.rotation, 90)
        return pixels if rest or not turns else np.ascontiguousarray(np.rot90(pixels, turns))

    def _check_size(self, width: int, height: int) -> None:
        if max(width, height) > _LONGEST_SIDE * min(width, height) > 0:
            raise self._error(f"frames of {width}x{height} pixels, too narrow to be resized")

    def _check_time(self) -> None:
        if time.thread_time() > self._end:
            raise self._error(f"not read after {self._timeout:g} s of processor time, at packet {self._packets}")

    def _error(self, reason: str) -> VideoError:
        return VideoError(self._path, reason)

    def _translated(self, error: BaseException) -> BaseException:
        """FFmpeg's and the system's errors as `VideoError`; others as they are."""
        if isinstance(error, av.error.ExitError):
            return self._error(f"no data for {self._timeout:g} s")
        if isinstance(error, av.error.ArgumentError) and self._container is None:
            return self._error(f"none of the containers that are read: {_CONTAINERS}")
        if isinstance(error, av.error.FFmpegError | OSError):
            return self._error(error.strerror or str(error))
        return error
