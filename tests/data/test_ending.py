"""Whole and cut files of every container; those whose end is another's problem are told as unknown."""

import struct

import pytest

from hbi_jax.data import ending as module
from hbi_jax.data.ending import Ending, ending


def _box(name, content, size=None):
    return struct.pack(">I4s", 8 + len(content) if size is None else size, name) + content


def _element(name, content, size=None):
    """Of Matroska, with its size in eight bytes; `size` -1: unknown."""
    number = (1 << 56) - 1 if size == -1 else len(content)
    return name + (number | 1 << 56).to_bytes(8) + content


def _chunk(name, content):
    return struct.pack("<4sI", name, len(content)) + content


_CLUSTER = _element(b"\x1f\x43\xb6\x75", bytes(200))
_EBML, _SEGMENT = _element(b"\x1a\x45\xdf\xa3", bytes(20)), b"\x18\x53\x80\x67"
_CUES = _element(b"\x1c\x53\xbb\x6b", bytes(40))
_MKV = _EBML + _element(_SEGMENT, _CLUSTER * 2 + _CUES)
_LIVE = _EBML + _element(_SEGMENT, _element(b"\x1f\x43\xb6\x75", _element(b"\xa3", bytes(50)) * 3, -1), -1)
_AVI = _chunk(b"RIFF", b"AVI " + _chunk(b"LIST", b"movi" + bytes(300)) + _chunk(b"idx1", bytes(40)))
_MOV = _box(b"ftyp", bytes(8)) + _box(b"moov", bytes(100)) + _box(b"mdat", bytes(400)) + _box(b"free", bytes(32))
_FRAGMENT = _box(b"moof", bytes(40)) + _box(b"mdat", bytes(90))
_FRAGMENTS = _box(b"ftyp", bytes(8)) + _box(b"moov", bytes(50)) + 2 * _FRAGMENT
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF = bytes(16) + struct.pack("<Q", 64) + bytes(40) + _ASF_DATA + struct.pack("<Q", 324) + bytes(300)
_TAG = b"\x09" + (50).to_bytes(3) + bytes(7) + bytes(50) + struct.pack(">I", 61)
_FLV = b"FLV\x01" + bytes(9) + _TAG * 3
_PAGE = b"OggS\0%c" + bytes(20) + b"\x02\x64\x32" + bytes(150)
_OGG = (_PAGE % 0) * 2 + _PAGE % 4
_TS = (b"\x47" + b"\x11" * 187) * 8
_M2TS = (bytes(4) + b"\x47" + b"\x11" * 187) * 8
_PES = b"\0\0\1\xe0" + struct.pack(">H", 100) + b"\x22" * 100
_PACK = b"\0\0\1\xba\x44" + bytes(9)
_MPG = (_PACK + _PES + _PES) * 3


@pytest.mark.parametrize(
    ("container", "data", "whole"),
    [
        ("mov,mp4,m4a,3gp,3g2,mj2", _MOV, Ending.WHOLE),
        ("mov", _FRAGMENTS + _box(b"mfra", bytes(30)), Ending.WHOLE),
        ("mov", _FRAGMENTS, Ending.UNKNOWN),
        ("mov", _box(b"ftyp", bytes(8)) + _box(b"mdat", bytes(99), 0), Ending.UNKNOWN),
        ("matroska,webm", _MKV, Ending.WHOLE),
        ("matroska,webm", _LIVE, Ending.UNKNOWN),
        ("avi", _AVI, Ending.WHOLE),
        ("asf", _ASF, Ending.WHOLE),
        ("flv", _FLV, Ending.UNKNOWN),
        ("ogg", _OGG, Ending.WHOLE),
        ("ogg", (_PAGE % 0) * 2, Ending.UNKNOWN),
        ("mpegts", _TS, Ending.UNKNOWN),
        ("mpegts", _M2TS, Ending.UNKNOWN),
        ("mpeg", _MPG, Ending.UNKNOWN),
        ("mpeg", _MPG + b"\0\0\1\xb9", Ending.WHOLE),
        ("gif", b"GIF89a" + bytes(99) + b";", Ending.WHOLE),
        ("mpegvideo", bytes(99), Ending.UNKNOWN),
        ("mov", b"", Ending.UNKNOWN),
        ("matroska", b"\0" * 50, Ending.UNKNOWN),
        ("avi", b"RIFF\0\0\0\0AVI " + bytes(50), Ending.UNKNOWN),
        ("asf", b"", Ending.UNKNOWN),
    ],
)
def test_whole_files(tmp_path, container, data, whole):
    path = tmp_path / "video"
    path.write_bytes(data)
    assert ending(path, container) is whole


@pytest.mark.parametrize(
    ("container", "data"), [("mov", _FRAGMENTS), ("matroska", _LIVE), ("asf", _ASF), ("avi", _AVI)]
)
def test_a_file_of_endless_parts_is_not_followed_for_ever(tmp_path, monkeypatch, container, data):
    path = tmp_path / "video"
    path.write_bytes(data)
    monkeypatch.setattr(module, "_MOST_PARTS", 1)
    assert ending(path, container) is Ending.UNKNOWN


@pytest.mark.parametrize(
    ("container", "data", "missing", "cut"),
    [
        ("mov", _MOV, 50, Ending.CUT),  # of the pictures
        ("mov", _MOV, 10, Ending.SHORT),  # of what follows them
        ("mov", _FRAGMENTS, 10, Ending.CUT),
        ("matroska", _MKV, 60, Ending.CUT),
        ("matroska", _MKV, 10, Ending.SHORT),
        ("matroska", _MKV, len(_CUES), Ending.SHORT),
        ("matroska", _LIVE, 10, Ending.CUT),
        ("avi", _AVI, 100, Ending.CUT),
        ("avi", _AVI, 10, Ending.SHORT),
        ("asf", _ASF, 10, Ending.CUT),
        ("flv", _FLV, 10, Ending.SHORT),
        ("ogg", _OGG, 10, Ending.CUT),
        ("mpegts", _TS, 10, Ending.CUT),
        ("mpegts", _M2TS, 100, Ending.CUT),
        ("mpeg", _MPG, 10, Ending.CUT),
        ("gif", b"GIF89a" + b"\x11" * 99 + b";", 10, Ending.CUT),
    ],
)
def test_cut_files(tmp_path, container, data, missing, cut):
    path = tmp_path / "video"
    path.write_bytes(data[:-missing])
    assert ending(path, container) is cut
