"""Decodes selected frames of a video file within limits of time and memory.

A first pass reads the packets without decoding them, to learn when each frame is shown. A second pass decodes the
wanted frames. If the container maps packets to frames, this pass decodes only the wanted frames and their reference
frames: it skips whole groups of pictures, and non-reference frames within a group. Otherwise it decodes everything from
the beginning to the last wanted frame. Both ways give the same pixels, and both keep only the wanted frames in memory.
"""

import array
import collections
import dataclasses
import errno
import itertools
import os
import pathlib
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import UInt8

from hbi_jax.data.ending import Ending, ending
from hbi_jax.data.names import with_other_ending
from hbi_jax.data.picture import pixel_aspect, shown, square_size
from hbi_jax.data.timeline import Timeline

# Converts a frame, RGB in 0..255, to the value to keep.
Keep = Callable[[UInt8[np.ndarray, "h w 3"]], Any]

# Bytes of packets that are kept between reading and decoding a file, so that it is not opened again.
_KEPT = 2**24
# Maximum processor time per file, in seconds.
TIMEOUT = 120.0
# Largest frame in pixels, twice 8K. A larger size means a damaged header, and decoding would need gigabytes of memory.
# FFmpeg reports such a file as invalid.
_MAX_PIXELS = {"max_pixels": str(2**26)}
# Accept videos whose title has an unknown encoding. PyAV 19 and later always do.
_METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
# Largest ratio of long to short side; a narrower frame, resized to a short side of 224, would also need gigabytes.
_LONGEST_SIDE = 256

# Reasons that callers distinguish.
NO_VIDEO = "holds no video stream"
NO_FRAME_RATE = "states no frame rate"
TOO_SHORT = "ends before the wanted clip starts"
TOO_LATE = "shows its first picture after the wanted clip ends"

# Probe the whole file for streams; limits in bytes and in microseconds.
_PROBE_ALL = {"probesize": str(2**31 - 1), "analyzeduration": str(2**31 - 1)}

# The accepted containers. FFmpeg would open much more, such as pictures, text and lists of other files.
_CONTAINERS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif"
# Containers for channels that lose packets; their files can be joined by concatenation. In these a lost packet does not
# mean a damaged file, and timestamps restart at a joint.
_BROADCAST = ("mpegts", "mpeg")
# A timestamp that jumps ahead by more than this many seconds marks a joint.
_JUMP = 10.0
# A lost picture of a broadcast is replaced by one shown at most this many seconds away.
_LOST = 1.0
# A broadcast counts as cut if its only incomplete packets are among the last ones, at most this many.
_LAST_PACKETS = 2
# Picture codecs: a stream with one of these is a cover or thumbnail if the file has another video stream.
_PICTURES = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# If a container states only a duration, it is inexact: this share of it, plus one second, may be missing.
_MISSING_SHARE = 0.1
# In these containers with these codecs, each packet is one frame and states when the frame is shown.
_INDEXED_CONTAINERS = ("mov", "matroska")
_INDEXED_CODECS = ("h264", "hevc", "vp9", "av1", "libdav1d")


class VideoError(ValueError):
    """A video that cannot be read.

    Attributes:
      path: The file.
      reason: The cause, without the path.
    """

    def __init__(self, path: str | pathlib.Path, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class OpenVideo:
    """The video stream of a file, as a context manager.

    If a file has several video streams, the default one is read, or else the largest; covers are ignored. Each method
    reads the file from the beginning and raises `VideoError` if the file is damaged or takes too long to read.
    """

    def __init__(self, path: str | pathlib.Path, timeout: float | int = TIMEOUT, square_pixels: bool = True):
        """Stores the settings; the file is opened on entering the context.

        Args:
          path: The file.
          timeout: Maximum processor time for all reads together, in seconds; 0 means no limit. Only this thread's time
            counts, so that other load on the machine does not make a video unreadable.
          square_pixels: Whether to scale pictures with non-square pixels as a player does.
        """
        self._path, self._timeout, self._square_pixels = path, timeout, square_pixels
        self._container: av.container.InputContainer | None = None
        self._shown = np.zeros(0, np.int64)  # ascending times of the frames, in the stream's time base
        self._cached: list[av.Packet] = []
        self._probing: dict[str, str] = {}  # how far FFmpeg probes for streams; empty: FFmpeg's default
        # Whether only decoding can show that the last picture is whole, and whether the last decoded one is damaged.
        self._ends_unknown = self._ends_damaged = False

    def __enter__(self) -> "OpenVideo":
        self._end = time.thread_time() + self._timeout if self._timeout else float("inf")
        try:
            mode = os.stat(self._path).st_mode
            if not stat.S_ISREG(mode):
                # Reading from a pipe could block forever.
                raise self._error("Is a directory" if stat.S_ISDIR(mode) else "a pipe or device, not a regular file")
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
            # Without the prefix, FFmpeg would take the part of a name before a colon for a protocol.
            f"file:{self._path}",
            options=_MAX_PIXELS,
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"} | self._probing,
            timeout=self._timeout or None,
            **_METADATA,
        )
        self._names = self._container.format.name.split(",")
        self._is_broadcast = any(name in self._names for name in _BROADCAST)
        self._stream = self._best_stream()
        context = self._stream.codec_context
        if context is None:
            raise self._error("has no decoder for its video stream")
        self._check_size(context.width, context.height)
        context.options = _MAX_PIXELS
        context.thread_type = "SLICE"
        # Several clips are decoded at the same time, so threads within one clip would only slow down the others.
        context.thread_count = 1
        # The AV1 decoder reads `skip_frame` only here: it must not be opened later, with a value for one packet.
        context.open()
        self._context, self._packets, self._incomplete = context, 0, array.array("q")
        self._aspect = pixel_aspect(self._stream.sample_aspect_ratio if self._square_pixels else None)

    def _best_stream(self) -> av.VideoStream:
        """Returns the video stream that a player shows."""
        streams = [stream for stream in self._container.streams.video if not stream.disposition & _NO_VIDEO]
        if not streams:
            raise self._error(NO_VIDEO)

        def rank(stream: av.VideoStream) -> tuple[bool, bool, bool, bool, int]:
            context = stream.codec_context
            return (
                context is not None,
                context is not None and context.name not in _PICTURES,
                stream.frames != 1,
                bool(stream.disposition & Disposition.default),
                0 if context is None else context.width * context.height,
            )

        return max(streams, key=rank)

    def timeline(self, until: float | int = float("inf")) -> Timeline:
        """Returns the timeline of the frames that are shown by `until`, in seconds from the beginning of the file.

        Raises:
          VideoError: If there is no frame, or the file does not say when frames are shown.
        """
        try:
            return self._read_timeline(until)
        except IndexError:
            # PyAV fails on packets of a stream that begins after the probed part, such as late sound.
            self._probing = _PROBE_ALL
            return self._read_timeline(until)

    def _read_timeline(self, until: float | int) -> Timeline:
        stamps, hidden, keys = array.array("q"), bytearray(), bytearray()
        latest = duration = size = 0
        self._cached = []
        # Read one second more: if the container does not state its start, it is only known after reading.
        last = (until + self._begin + 1) / self._stream.time_base if until < float("inf") else None
        # AVI states decoding times only. FFmpeg guesses the presentation times, wrongly if frames are reordered, so the
        # decoding times are assigned to the frames in the order in which they are shown.
        self._is_untimed = "avi" in self._names
        for packet in self._demux():
            if last is not None and packet.dts is not None and packet.dts > last:
                break
            size += packet.size
            if size <= _KEPT:
                self._cached.append(packet)
            self._is_untimed |= packet.pts is None
            stamp = packet.dts if self._is_untimed and packet.dts is not None else packet.pts
            if not stamps or stamp > latest:
                latest, duration = stamp, packet.duration or 0
            stamps.append(stamp)
            hidden.append(packet.is_discard)
            keys.append(packet.is_keyframe)
        if size > _KEPT:
            self._cached = []
        self._order, self._keys = np.frombuffer(stamps, np.int64), np.frombuffer(keys, bool)
        self._hidden = np.frombuffer(hidden, bool)
        self._shown = np.sort(self._order[~self._hidden])
        if not len(self._shown):
            is_cut = ending(self._path, self._container.format.name) in (Ending.CUT, Ending.SHORT)
            raise self._error("truncated before its first picture" if is_cut else "no frame can be decoded")
        self._check_is_moving()
        base = float(self._stream.time_base)
        times = self._shown * base - self._begin
        found = Timeline(times, float(times[-1]) + duration * base, self._stated_rate, base)
        if len(times) > 1 and found.measured is None:
            raise self._error(NO_FRAME_RATE)
        self._usual_step, end = found.interval / base, float(times[-1]) + found.interval
        return found if found.end >= end else dataclasses.replace(found, end=end)

    def check_whole(self, timeline: Timeline) -> None:
        """Raises VideoError if the file was truncated; call it after the whole file has been read.

        If the sizes of the container's parts show that the file is whole or cut, they decide. Otherwise the file counts
        as truncated if it ends within a picture, or if no stream, video or audio, lasts as long as the container says.

        Args:
          timeline: The timeline of the whole file.

        Raises:
          VideoError: If the file is truncated.
        """
        how = ending(self._path, self._container.format.name)
        if how is Ending.WHOLE:
            return
        length, seconds = (self._container.duration or 0) / av.time_base, timeline.end
        if not self._is_broadcast:
            seconds += max(0.0, self._begin)  # some containers state when they end by their own clock, not a duration
        # If earlier packets are incomplete too, the channel lost packets, and incomplete last packets prove nothing.
        lost = self._packets - self._incomplete[0] + 1 - len(self._incomplete) if self._incomplete else None
        is_cut = how is Ending.CUT or (lost is not None and lost <= _LAST_PACKETS)
        self._ends_unknown = (self._is_broadcast or "mpegvideo" in self._names) and lost is None
        if not is_cut:
            missing = 1.5 * timeline.interval if how is Ending.SHORT else _MISSING_SHARE * length + 1
            if length - seconds > missing:
                seconds = max(seconds, self._end_of_all_streams() + max(0.0, self._begin))
            is_cut = length - seconds > missing
        if is_cut:
            declared = f" of the declared {length:.1f} s" if length > seconds else " s"
            raise self._error(f"truncated at {seconds:.1f}{declared}")

    @property
    def stream(self) -> av.VideoStream:
        """The stream that is read; replaced each time the file is read from the beginning."""
        return self._stream

    def first_frame(self) -> av.VideoFrame:
        """Returns the first frame that can be decoded; call `timeline` before."""
        frame = next(self._frames(), None)
        if frame is None:
            raise self._error("no frame can be decoded")
        return frame

    def decode(self, wanted: Sequence[int], keep: Keep) -> dict[int, Any]:
        """Decodes the wanted frames, and other frames only if they are needed for these.

        Args:
          wanted: Frame numbers in the latest `timeline`, ascending and distinct.
          keep: Converts a frame to the value to keep; called once per picture.

        Returns:
          The kept values by frame number.
        """
        stamps = self._shown[list(wanted)].tolist()
        found = self._decode_groups(stamps, keep) or self._decode_through(stamps, keep)
        return {number: found[stamp] for number, stamp in zip(wanted, stamps, strict=True)}

    @property
    def _stated_rate(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def _seconds(self, stamp: int) -> float:
        """Returns a time of the stream in seconds from the beginning of the presentation."""
        return float(stamp * self._stream.time_base) - self._begin

    @property
    def _begin(self) -> float:
        """The start of the presentation by the container's clock, in seconds: the start of its first stream."""
        start = self._container.start_time
        if start is not None:
            return start / av.time_base
        return float(self._shown[0] * self._stream.time_base) if len(self._shown) else 0.0

    def _check_is_moving(self) -> None:
        """Raises VideoError for an unmarked cover: a single picture with a sound track."""
        is_still = len(self._order) == 1 and self._context.name in _PICTURES
        if is_still and self._container.streams.audio:
            raise self._error(NO_VIDEO)

    def _end_of_all_streams(self) -> float:
        self._cached = []
        self._open()
        end = 0.0
        for packet in self._container.demux():
            self._check_time()
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and packet.time_base:
                end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base))
        self._packets += 1  # makes the next read reopen the file
        return end - self._begin

    def _decode_groups(self, stamps: Sequence[int], keep: Keep) -> dict[int, Any] | None:
        """Decodes frames by time, group by group; returns `None` if the file has no independent groups of pictures."""
        if not self._is_grouped():
            return None
        wanted, needed = set(stamps), np.isin(self._order, stamps)
        group = np.cumsum(self._keys)
        places = np.flatnonzero(needed).tolist()
        last = {int(group[place]): place for place in places}
        kept: dict[int, Any] = {}
        for place, packet in enumerate(self._again()):
            end = last.get(int(group[place]), -1)
            if place <= end:
                if self._keys[place]:
                    self._context.flush_buffers()
                self._context.skip_frame = "DEFAULT" if needed[place] else "NONREF"
                frames = self._context.decode(packet)
                if place == end:  # drain the decoder
                    self._context.skip_frame = "DEFAULT"
                    frames += self._context.decode(None)
                for frame in frames:
                    if frame.pts in wanted and frame.pts not in kept:
                        kept[frame.pts] = keep(self._pixels(frame))
            if place == places[-1]:
                break
        return kept if len(kept) == len(stamps) else None

    def _is_grouped(self) -> bool:
        """Returns whether packets are frames and no frame depends on one before its preceding key frame."""
        is_indexed = any(name in self._names for name in _INDEXED_CONTAINERS)
        if not is_indexed or self._context.name not in _INDEXED_CODECS:
            return False
        if self._is_untimed or self._hidden.any() or not self._keys[0]:
            return False
        starts = np.flatnonzero(self._keys)
        first, last = np.minimum.reduceat(self._order, starts), np.maximum.reduceat(self._order, starts)
        # Frames shown before the key frame of their group depend on the previous group.
        in_turn = (self._order[starts] == first).all() and (first[1:] > last[:-1]).all()
        return bool(in_turn and (np.diff(self._shown) > 0).all())

    def _decode_through(self, stamps: Sequence[int], keep: Keep) -> dict[int, Any]:
        """Decodes frames by time, decoding everything from the beginning."""
        kept: dict[int, Any] = {}
        last, value = None, None
        for stamp, frame in self._shown_at(stamps):
            if frame is not last:
                last, value = frame, keep(self._pixels(frame))
            kept[stamp] = value
        return kept

    def _shown_at(self, stamps: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields each of the ascending times with its frame, or with the frame before if its own is lost."""
        waiting, latest = collections.deque(stamps), None
        for frame in self._frames():
            if latest is not None and frame.pts <= latest.pts:
                continue
            while waiting and waiting[0] < frame.pts:
                yield self._checked(waiting.popleft(), latest or frame)
            latest = frame
            if waiting and waiting[0] == frame.pts:
                yield waiting.popleft(), frame
            if not (waiting or self._ends_unknown):
                return
        if latest is None:
            raise self._error("no frame can be decoded")
        if self._ends_unknown and self._ends_damaged:
            raise self._error(f"truncated: its last picture, after {self._seconds(latest.pts):.2f} s, is damaged")
        for stamp in waiting:
            yield self._checked(stamp, latest)

    def _checked(self, stamp: int, frame: av.VideoFrame) -> tuple[int, av.VideoFrame]:
        """Returns a time and the frame that replaces its lost frame; raises VideoError if that one is too far away."""
        allowed = _LOST / self._stream.time_base if self._is_broadcast or frame.pts > stamp else self._usual_step * 1.5
        if abs(stamp - frame.pts) > allowed:
            raise self._error(f"damaged or truncated: no picture can be decoded at {self._seconds(stamp):.2f} s")
        return stamp, frame

    def _frames(self) -> Iterator[av.VideoFrame]:
        """Yields all frames that can be decoded, with `pts` set to the time at which each is shown."""
        stamps = map(int, self._shown)
        self._context.flush_buffers()
        self._context.skip_frame = "DEFAULT"
        for packet in itertools.chain(self._again(), (None,)):  # None: what the decoder still holds
            try:
                frames = self._context.decode(packet)
            except av.error.InvalidDataError:
                if not self._is_broadcast:
                    raise
                # The packet precedes the first key frame or follows a loss.
                self._ends_damaged = True
                continue
            for frame in frames:
                if self._is_untimed:
                    frame.pts = next(stamps, None)
                self._ends_damaged = frame.is_corrupt
                if frame.pts is not None and not (self._is_broadcast and frame.is_corrupt):
                    yield frame

    def _again(self) -> Iterator[av.Packet]:
        """Yields the packets that `timeline` read, and perhaps more; from memory if they are few."""
        if not self._cached:
            yield from self._demux()
        for packet in self._cached:
            self._check_time()
            yield packet

    def _demux(self) -> Iterator[av.Packet]:
        """Yields the packets of the stream from the beginning, with timestamps that run on across joints."""
        if self._packets:
            self._open()
        base = self._stream.time_base
        step = round(1 / (base * self._stated_rate)) if self._stated_rate else None
        shift, latest = 0, None
        for packet in self._container.demux(self._stream):
            self._check_time()
            if not packet.size:
                continue
            if packet.is_corrupt and not self._is_broadcast:
                raise self._error(f"truncated or damaged after {self._packets} packets")
            self._packets += 1
            if packet.is_corrupt:
                self._incomplete.append(self._packets)
            if packet.dts is not None:
                packet.dts += shift
                if self._is_broadcast and latest is not None and not 0 <= packet.dts - latest <= _JUMP / base:
                    # Joined files: the second continues where the first ends.
                    more = latest + (packet.duration or step or 1) - packet.dts
                    shift, packet.dts = shift + more, packet.dts + more
            if packet.pts is not None:
                packet.pts += shift
            elif packet.dts is None:
                if step is None:
                    raise self._error(NO_FRAME_RATE)
                packet.dts = 0 if latest is None else latest + step
            latest = packet.pts if packet.dts is None else packet.dts
            yield packet

    def _pixels(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a frame as a player shows it, as RGB."""
        self._check_time()
        if frame.is_corrupt:
            raise self._error(f"damaged: the picture at {self._seconds(frame.pts):.2f} s")
        self._check_size(*square_size(frame.width, frame.height, self._aspect))
        return shown(frame, self._aspect)

    def _check_size(self, width: int, height: int) -> None:
        if max(width, height) > _LONGEST_SIDE * min(width, height) > 0:
            raise self._error(f"frames of {width}x{height} pixels, too narrow to be resized")

    def _check_time(self) -> None:
        if time.thread_time() > self._end:
            raise self._error(f"not read after {self._timeout:g} s of processor time, at packet {self._packets}")

    def _error(self, reason: str) -> VideoError:
        return VideoError(self._path, reason)

    def _translated(self, error: BaseException) -> BaseException:
        """Returns a `VideoError` for errors of FFmpeg and the system; other errors unchanged."""
        if isinstance(error, FileNotFoundError):
            return self._error(not_found(self._path))
        if isinstance(error, av.error.ExitError):
            return self._error(f"no data for {self._timeout:g} s")
        if isinstance(error, av.error.ArgumentError) and self._container is None:
            return self._error(f"not one of the supported containers: {_CONTAINERS}")
        if isinstance(error, av.error.FFmpegError | OSError):
            return self._error(error.strerror or str(error))
        return error


def not_found(path: str | pathlib.Path) -> str:
    """Returns the message for a missing file, with the files that differ from it only in the extension."""
    names = " and ".join(other.name for other in with_other_ending(path))
    return os.strerror(errno.ENOENT) + (f", but there is {names}, whose extension is not supported" if names else "")
