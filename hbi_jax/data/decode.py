"""Decoding of the frames of a video file that are wanted, within limits of time and memory.

The packets are read first, without decoding: they say when each frame is shown. Then the wanted frames are decoded.
Where the container tells which packet is which frame, only what these are predicted from is decoded: whole groups of
pictures are passed over, and within a group the frames that no other refers to. Elsewhere everything is decoded, from
the beginning to the last wanted frame. Both give the same pixels, and neither keeps more than the wanted frames.
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

# Makes of a frame, RGB in 0..255, what is wanted of it.
Keep = Callable[[UInt8[np.ndarray, "h w 3"]], Any]

# Bytes of packets that are kept between reading and decoding them, which spares to open the file again.
_KEPT = 2**24
# Processor time that one file may take, in seconds.
TIMEOUT = 120.0
# Largest frame, twice 8K, in pixels: beyond, the header is damaged, and decoding would ask for memory by the gigabyte.
# FFmpeg calls such a file invalid.
_MAX_PIXELS = {"max_pixels": str(2**26)}
# Longest side, in short ones; resized to a short side of 224, more would be gigabytes as well.
_LONGEST_SIDE = 256

# Reasons that are told apart.
NO_VIDEO = "holds no video stream"
NO_FRAME_RATE = "states no frame rate"
TOO_SHORT = "ends before the wanted clip starts"
TOO_LATE = "shows its first picture after the wanted clip ends"

# Looks for streams in the whole file: bytes, and microseconds.
_PROBE_ALL = {"probesize": str(2**31 - 1), "analyzeduration": str(2**31 - 1)}

# FFmpeg opens much more, such as pictures, text and lists of other files.
_CONTAINERS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif"
# Made for channels that lose packets, and joined by putting one file after the other. There a lost packet is no
# damaged file, and times begin anew at a joint.
_BROADCAST = ("mpegts", "mpeg")
# A time that jumps ahead by more than this is a joint; in seconds.
_JUMP = 10.0
# A picture that a broadcast lost is replaced by one that was shown so many seconds earlier at most.
_LOST = 1.0
# A broadcast was cut where it ends with incomplete packets, but for so many that follow, and has none before.
_LAST_PACKETS = 2
# Codecs of single pictures: covers and thumbnails, if there is another video stream.
_PICTURES = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# Where the container states a length alone, its headers are not exact: so much of it may be missing, and a second.
_MISSING_SHARE = 0.1
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


class OpenVideo:
    """The video stream of a file: of several the default one, or else the largest; no cover. A context manager.

    Its methods read the file from the beginning, and raise `VideoError` where it is damaged or takes too long.
    """

    def __init__(self, path: str | pathlib.Path, timeout: float | int = TIMEOUT, square_pixels: bool = True):
        """Opens nothing yet.

        Args:
          path: The file.
          timeout: Processor time that all reading may take together, in seconds; 0: any. It is this thread's, so that
            other work on the machine condemns no video.
          square_pixels: Whether pictures whose pixels are not square are scaled as a player does it.
        """
        self._path, self._timeout, self._square_pixels = path, timeout, square_pixels
        self._container: av.container.InputContainer | None = None
        self._shown = np.zeros(0, np.int64)  # times of the frames, ascending, in units of the stream
        self._cached: list[av.Packet] = []
        self._probing: dict[str, str] = {}  # how far FFmpeg looks for streams; otherwise as far as it does
        # Whether only decoding tells that the last picture is whole, and that of those decoded so far the last is not.
        self._ends_unknown = self._ends_damaged = False

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
            # Without the protocol, what precedes a colon in the name would be taken for one.
            f"file:{self._path}",
            options=_MAX_PIXELS,
            container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"} | self._probing,
            # A title in an unknown encoding is no reason to refuse a video.
            metadata_errors="ignore",
            timeout=self._timeout or None,
        )
        self._names = self._container.format.name.split(",")
        self._is_broadcast = any(name in self._names for name in _BROADCAST)
        self._stream = self._best_stream()
        context = self._stream.codec_context
        if context is None:
            raise self._error("no decoder for its video stream")
        self._check_size(context.width, context.height)
        context.options = _MAX_PIXELS
        context.thread_type = "SLICE"
        # Clips are read several at once; threads within a small one then only get in the way of the others.
        context.thread_count = 1
        self._context, self._packets, self._incomplete = context, 0, array.array("q")
        self._aspect = pixel_aspect(self._stream.sample_aspect_ratio if self._square_pixels else None)

    def _best_stream(self) -> av.VideoStream:
        """The video stream that a player shows."""
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
        """When the frames are shown that are shown by some time, in seconds from the file's beginning.

        Raises:
          VideoError: If there is no frame, or nothing tells when frames are shown.
        """
        try:
            return self._read_timeline(until)
        except IndexError:
            # A stream, such as late sound, begins after what FFmpeg looked at; PyAV fails on its packets.
            self._probing = _PROBE_ALL
            return self._read_timeline(until)

    def _read_timeline(self, until: float | int) -> Timeline:
        stamps, hidden, keys = array.array("q"), bytearray(), bytearray()
        latest = duration = size = 0
        self._cached = []
        # A second more, because where the presentation begins is only known afterwards if the container does not say.
        last = (until + self._begin + 1) / self._stream.time_base if until < float("inf") else None
        # AVI says when packets are decoded; FFmpeg's guess when they are shown is wrong where their order is another.
        # Then frames are shown one after the other at these times.
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
        self._usual_step = found.interval / base
        return dataclasses.replace(found, end=max(found.end, float(times[-1]) + found.interval))

    def check_whole(self, timeline: Timeline) -> None:
        """Refuses a file that was cut; to be asked once all of it has been read.

        It was if it ends within a picture, or if no stream, neither picture nor sound, lasts as long as the container
        says. Where the sizes of its parts tell that it is whole, or that something is missing, that decides.

        Args:
          timeline: That of all the file.
        """
        how = ending(self._path, self._container.format.name)
        if how is Ending.WHOLE:
            return
        length, seconds = (self._container.duration or 0) / av.time_base, timeline.end
        if not self._is_broadcast:
            seconds += max(0.0, self._begin)  # some say when they end by their own clock, not how long they last
        # Where packets before are incomplete, too, some were lost, and the last ones prove nothing.
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
        """The stream that is read; until the file is read from the beginning again."""
        return self._stream

    def first_frame(self) -> av.VideoFrame:
        """The first frame that can be decoded, after `timeline`."""
        frame = next(self._frames(), None)
        if frame is None:
            raise self._error("no frame can be decoded")
        return frame

    def decode(self, wanted: Sequence[int], keep: Keep) -> dict[int, Any]:
        """Decodes the wanted frames, and others only where these need them or the container leaves no choice.

        Args:
          wanted: Numbers of frames of the last `timeline`, ascending and distinct.
          keep: What to make of each; called once for each.

        Returns:
          What was kept, by number.
        """
        stamps = self._shown[list(wanted)].tolist()
        found = self._decode_groups(stamps, keep) or self._decode_through(stamps, keep)
        return {number: found[stamp] for number, stamp in zip(wanted, stamps, strict=True)}

    @property
    def _stated_rate(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def _seconds(self, stamp: int) -> float:
        """Seconds from the beginning of the presentation to a time of the stream."""
        return float(stamp * self._stream.time_base) - self._begin

    @property
    def _begin(self) -> float:
        """When the presentation begins, by the clock of the container, in seconds: with the first of its streams."""
        start = self._container.start_time
        if start is not None:
            return start / av.time_base
        return float(self._shown[0] * self._stream.time_base) if len(self._shown) else 0.0

    def _check_is_moving(self) -> None:
        """A cover that is not marked as one: a single picture beside sound."""
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
        self._packets += 1  # the next one who reads has to begin anew
        return end - self._begin

    def _decode_groups(self, stamps: Sequence[int], keep: Keep) -> dict[int, Any] | None:
        """As `decode`, by the times of frames; `None` where frames are not packets in groups of their own."""
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
                if place == end:  # what the decoder still holds
                    self._context.skip_frame = "DEFAULT"
                    frames += self._context.decode(None)
                for frame in frames:
                    if frame.pts in wanted and frame.pts not in kept:
                        kept[frame.pts] = keep(self._pixels(frame))
            if place == places[-1]:
                break
        return kept if len(kept) == len(stamps) else None

    def _is_grouped(self) -> bool:
        """Whether packets are frames, and no frame needs another from before the key frame that precedes it."""
        is_indexed = any(name in self._names for name in _INDEXED_CONTAINERS)
        if not is_indexed or self._context.name not in _INDEXED_CODECS:
            return False
        if self._is_untimed or self._hidden.any() or not self._keys[0]:
            return False
        starts = np.flatnonzero(self._keys)
        first, last = np.minimum.reduceat(self._order, starts), np.maximum.reduceat(self._order, starts)
        # Frames that are shown before the key frame of their group need the group before.
        in_turn = (self._order[starts] == first).all() and (first[1:] > last[:-1]).all()
        return bool(in_turn and (np.diff(self._shown) > 0).all())

    def _decode_through(self, stamps: Sequence[int], keep: Keep) -> dict[int, Any]:
        """As `decode`, by the times of frames, decoding everything from the beginning."""
        kept: dict[int, Any] = {}
        last, value = None, None
        for stamp, frame in self._shown_at(stamps):
            if frame is not last:
                last, value = frame, keep(self._pixels(frame))
            kept[stamp] = value
        return kept

    def _shown_at(self, stamps: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frame that is shown at each of some ascending times: that of this time, or else the one before."""
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
        """A time and the frame that stands for one that cannot be decoded; refused if it is from another time."""
        allowed = _LOST / self._stream.time_base if self._is_broadcast or frame.pts > stamp else self._usual_step * 1.5
        if abs(stamp - frame.pts) > allowed:
            raise self._error(f"damaged or truncated: no picture can be decoded at {self._seconds(stamp):.2f} s")
        return stamp, frame

    def _frames(self) -> Iterator[av.VideoFrame]:
        """All frames that can be decoded, each with the time at which it is shown."""
        stamps = map(int, self._shown)
        self._context.flush_buffers()
        self._context.skip_frame = "DEFAULT"
        for packet in itertools.chain(self._again(), (None,)):  # None: what the decoder still holds
            try:
                frames = self._context.decode(packet)
            except av.error.InvalidDataError:
                if not self._is_broadcast:
                    raise
                # What precedes the first key frame, or follows a loss.
                self._ends_damaged = True
                continue
            for frame in frames:
                if self._is_untimed:
                    frame.pts = next(stamps, None)
                self._ends_damaged = frame.is_corrupt
                if frame.pts is not None and not (self._is_broadcast and frame.is_corrupt):
                    yield frame

    def _again(self) -> Iterator[av.Packet]:
        """The packets that `timeline` read, and perhaps more; from memory where they are few."""
        if not self._cached:
            yield from self._demux()
        for packet in self._cached:
            self._check_time()
            yield packet

    def _demux(self) -> Iterator[av.Packet]:
        """The packets of the stream from the beginning, each with the time at which its frame is shown."""
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
                    # Files that were joined: the second goes on where the first ends.
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
        """RGB as a player shows it."""
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
        """FFmpeg's and the system's errors as `VideoError`; others as they are."""
        if isinstance(error, FileNotFoundError):
            return self._error(not_found(self._path))
        if isinstance(error, av.error.ExitError):
            return self._error(f"no data for {self._timeout:g} s")
        if isinstance(error, av.error.ArgumentError) and self._container is None:
            return self._error(f"none of the containers that are read: {_CONTAINERS}")
        if isinstance(error, av.error.FFmpegError | OSError):
            return self._error(error.strerror or str(error))
        return error


def not_found(path: str | pathlib.Path) -> str:
    """That there is no such file, and which files have its name with another ending."""
    names = " and ".join(other.name for other in with_other_ending(path))
    return os.strerror(errno.ENOENT) + (f", but there is {names}, an ending that is not looked for" if names else "")
