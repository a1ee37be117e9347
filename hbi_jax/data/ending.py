"""Detects truncated files by comparing the sizes that a container states for its parts with the file's size.

The duration in seconds does not show truncation: sound can outlast the picture, a last slide can stay, and a recorder
can count dropped frames. But the parts of most containers state their sizes in bytes, and a truncated file is shorter.
Nothing is decoded, and only a small part of a large file is read.
"""

import collections
import enum
import os
import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple


class Ending(enum.Enum):
    """The way a file ends.

    WHOLE: the file ends where its container says. CUT: the file ends within a part that holds pictures. SHORT: bytes
    are missing, which may hold pictures or an index. UNKNOWN: the container does not state its size.
    """

    WHOLE = enum.auto()
    CUT = enum.auto()
    SHORT = enum.auto()
    UNKNOWN = enum.auto()


# As many as a live recording of half a day has; following them takes some seconds.
_MOST_PARTS = 2**22


class _Part(NamedTuple):
    """A part of a file: its name, the start of its content, and its end, `None` if it does not state its size.

    Positions are in bytes.
    """

    name: bytes
    begin: int
    end: int | None


class _EndlessError(Exception):
    """A file has so many parts that following them would take long."""


# Reads the header of the part that begins at a position; returns `None` if there is none.
_Header = Callable[[BinaryIO, int], _Part | None]


def ending(path: str | pathlib.Path, container: str) -> Ending:
    """Returns how a file ends.

    Args:
      path: The file.
      container: FFmpeg's name of the container, or several names, separated by commas.

    Raises:
      OSError: If the file cannot be read.
    """
    check = next((check for name, check in _CHECKS.items() if name in container.split(",")), None)
    if check is None:
        return Ending.UNKNOWN
    with open(path, "rb") as file:
        try:
            return check(file, os.fstat(file.fileno()).st_size)
        except _EndlessError:
            return Ending.UNKNOWN


def _parts(file: BinaryIO, begin: int, size: int, header: _Header, descend: bool = False) -> Iterator[_Part]:
    """Yields the consecutive parts from a position on; the last one may end beyond the end of the file.

    After a part that does not state its size come its own parts if `descend`, and otherwise nothing.

    Raises:
      _EndlessError: If there are more than `_MOST_PARTS`.
    """
    for _ in range(_MOST_PARTS):
        part = header(file, begin) if begin < size else None
        if part is None:
            return
        yield part
        end = part.begin if part.end is None and descend else part.end
        if end is None or end <= begin:
            return
        begin = end
    raise _EndlessError


def _last(parts: Iterator[_Part]) -> _Part | None:
    """Returns the last of some parts, without keeping the others."""
    return next(iter(collections.deque(parts, maxlen=1)), None)


def _read(file: BinaryIO, begin: int, count: int) -> bytes:
    file.seek(max(0, begin))
    return file.read(count)


def _mov_header(file: BinaryIO, begin: int) -> _Part | None:
    data = _read(file, begin, 16)
    if len(data) < 8:
        return None
    length, name = struct.unpack(">I4s", data[:8])
    if length == 1 and len(data) == 16:
        (length,) = struct.unpack(">Q", data[8:])
    return _Part(name, begin + 8, begin + length if length >= 8 else None)


def _mov(file: BinaryIO, size: int) -> Ending:
    last, names = None, set()
    for part in _parts(file, 0, size, _mov_header):
        last = part
        names |= {part.name} & {b"moof", b"mfra"}
    if last is None or last.end is None:
        return Ending.UNKNOWN
    if last.end > size:
        return Ending.CUT if last.name in (b"mdat", b"moof", b"moov") else Ending.SHORT
    if last.end < size:
        return Ending.SHORT
    # A fragmented file can have any number of fragments; only the table written at its end shows that it is whole.
    return Ending.UNKNOWN if b"moof" in names and b"mfra" not in names else Ending.WHOLE


# Element ids: the segment, which holds all but the header; the elements with media, from outer to inner.
_SEGMENT, _MEDIA = b"\x18\x53\x80\x67", (b"\x1f\x43\xb6\x75", b"\xa0", b"\xa1", b"\xa3")


def _matroska_header(file: BinaryIO, begin: int) -> _Part | None:
    data = _read(file, begin, 12)
    name_length = 9 - data[0].bit_length() if data else 9
    if name_length > 4 or len(data) <= name_length or not data[name_length]:
        return None
    size_length = 9 - data[name_length].bit_length()
    content = begin + name_length + size_length
    number = data[name_length : name_length + size_length]
    if len(number) < size_length:
        return None
    length = int.from_bytes(number) - (1 << 7 * size_length)
    unknown = length == (1 << 7 * size_length) - 1
    return _Part(data[:name_length], content, None if unknown else content + length)


def _matroska(file: BinaryIO, size: int) -> Ending:
    segment = next((part for part in _parts(file, 0, size, _matroska_header) if part.name == _SEGMENT), None)
    if segment is None:
        return Ending.UNKNOWN
    if segment.end is not None and segment.end <= size:
        return Ending.WHOLE
    # A part recorded live does not state its size; descend into its own parts.
    last = _last(_parts(file, segment.begin, size, _matroska_header, descend=True))
    if last and last.end and last.end > size and last.name in _MEDIA:
        return Ending.CUT
    return Ending.UNKNOWN if segment.end is None else Ending.SHORT


def _riff_header(file: BinaryIO, begin: int) -> _Part | None:
    data = _read(file, begin, 12)
    if len(data) < 12:
        return None
    name, length, kind = struct.unpack("<4sI4s", data)
    return _Part(name + kind if name in (b"RIFF", b"LIST") else name, begin + 12, begin + 8 + length + length % 2)


def _avi(file: BinaryIO, size: int) -> Ending:
    riff = _last(part for part in _parts(file, 0, size, _riff_header) if part.name[:4] == b"RIFF")
    if riff is None or riff.end <= riff.begin:
        return Ending.UNKNOWN
    if riff.end <= size:
        return Ending.WHOLE
    last = _last(_parts(file, riff.begin, size, _riff_header))
    return Ending.CUT if last and last.name == b"LISTmovi" and last.end > size else Ending.SHORT


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _asf_header(file: BinaryIO, begin: int) -> _Part | None:
    data = _read(file, begin, 24)
    if len(data) < 24:
        return None
    name, length = struct.unpack("<16sQ", data)
    return _Part(name, begin + 24, begin + length if length >= 24 else None)


def _asf(file: BinaryIO, size: int) -> Ending:
    last = _last(_parts(file, 0, size, _asf_header))
    if last is None or last.end is None:
        return Ending.UNKNOWN
    if last.end <= size:
        return Ending.WHOLE
    return Ending.CUT if last.name == _ASF_DATA else Ending.SHORT


def _flv(file: BinaryIO, size: int) -> Ending:
    """Checks that the size after the last tag matches the tag; more tags may still be missing."""
    (tag,) = struct.unpack(">I", _read(file, size - 4, 4).rjust(4, b"\0"))
    data = _read(file, size - 4 - tag, 4)
    closed = 11 <= tag <= size and len(data) == 4 and int.from_bytes(data[1:]) == tag - 11
    return Ending.UNKNOWN if closed else Ending.SHORT


# Maximum length of an Ogg page: header, table of sizes, content.
_LONGEST_PAGE = 27 + 255 + 255 * 255


def _ogg(file: BinaryIO, size: int) -> Ending:
    data = _read(file, size - 2 * _LONGEST_PAGE, 2 * _LONGEST_PAGE)
    page = data[data.rfind(b"OggS") :] if b"OggS" in data else b""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return Ending.CUT if page else Ending.UNKNOWN
    if len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return Ending.CUT
    is_last = page[5] & 4
    return Ending.WHOLE if is_last else Ending.UNKNOWN


# Bytes of a packet, and bytes before its sync byte: broadcast, Blu-ray and camcorders, with error correction.
_TS_PACKETS, _TS_SYNC = ((188, 0), (192, 4), (204, 0)), 0x47


def _mpegts(file: BinaryIO, size: int) -> Ending:
    """Checks that the last packets end with the file; more packets may still be missing."""
    data = _read(file, size - 4 * 204, 4 * 204)
    closed = any(
        all(data[-number * length + before] == _TS_SYNC for number in (1, 2, 3, 4) if number * length <= len(data))
        for length, before in _TS_PACKETS
    )
    return Ending.UNKNOWN if closed else Ending.CUT


_PACK, _END_OF_STREAM = 0xBA, 0xB9
# Number of bytes read at the end of a program stream; packets are shorter than this.
_LONGEST_PACK = 2**17


def _mpeg_header(file: BinaryIO, begin: int) -> _Part | None:
    data = _read(file, begin, 14)
    if len(data) < 6 or data[:3] != b"\0\0\1" or data[3] < _END_OF_STREAM:
        return None
    if data[3] == _END_OF_STREAM:
        length = 4
    elif data[3] == _PACK:
        is_mpeg1 = data[4] >> 6 == 0
        length = 12 if is_mpeg1 else 14 + (data[13] & 7 if len(data) == 14 else 0)
    else:
        length = 6 + int.from_bytes(data[4:6])
    return _Part(data[:4], begin + 6, begin + length)


def _mpeg(file: BinaryIO, size: int) -> Ending:
    """Checks that the last packet ends with the file; more may be missing unless the stream has an end code."""
    begin = max(0, size - _LONGEST_PACK)
    data = _read(file, begin, _LONGEST_PACK)
    if data.endswith(bytes((0, 0, 1, _END_OF_STREAM))):
        return Ending.WHOLE
    pack = data.find(bytes((0, 0, 1, _PACK)))
    if pack < 0:
        return Ending.UNKNOWN
    last = _last(_parts(file, begin + pack, size, _mpeg_header))
    return Ending.CUT if last and last.end > size else Ending.UNKNOWN


def _gif(file: BinaryIO, size: int) -> Ending:
    return Ending.WHOLE if _read(file, size - 64, 64).rstrip(b"\0").endswith(b";") else Ending.CUT


_CHECKS: dict[str, Callable[[BinaryIO, int], Ending]] = {
    "mov": _mov,
    "matroska": _matroska,
    "avi": _avi,
    "asf": _asf,
    "flv": _flv,
    "ogg": _ogg,
    "mpegts": _mpegts,
    "mpeg": _mpeg,
    "gif": _gif,
}
