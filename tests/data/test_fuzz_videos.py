"""Mutilated video files: each gives frames or a `VideoError`; none crashes, hangs or becomes a black clip.

Bits that are flipped within a slice of H.264 are often concealed by the decoder, and what is cut off a stream that
declares no length is missed only where it is more than a second: frames are then a little wrong, or a few short.
"""

import functools
import itertools
import os
import pathlib
import struct
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from hbi_jax.data.decode import OpenVideo
from hbi_jax.data.video import VideoError, map_windows, read_frames

# Decoding one of these files takes milliseconds.
_LIMIT = 5.0
_WIDTH, _HEIGHT, _FRAMES = 64, 48, 20
# The ending of a file, and a codec that its container is for.
_KINDS = {
    ".mp4": "libx264",
    ".mov": "mpeg4",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".3gp": "mpeg4",
    ".mpg": "mpeg1video",
    ".ts": "libx264",
    ".flv": "flv",
    ".wmv": "wmv2",
}


def _write(
    path, codec="libx264", size=(_WIDTH, _HEIGHT), times=range(_FRAMES), pix_fmt="yuv420p", turn=None, **options
):
    """A bright square that moves over a ramp of colours; frames at the given 25ths of a second."""
    width, height = size
    with av.open(str(path), "w", options={"movflags": "+faststart"} if options.pop("faststart", False) else {}) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, pix_fmt, 8
        if turn is not None:
            stream.set_display_rotation(turn)
        for shown in times:
            rows, columns = np.mgrid[:height, :width]
            pixels = np.stack([60 + rows % 150, 60 + columns % 150, np.full_like(rows, 90)], -1).astype(np.uint8)
            pixels[: height // 2, (2 * shown) % width :][:, : width // 4] = (250, 240, 60)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = shown, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound file of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: _write(folder / f"clip{kind}", codec) for kind, codec in _KINDS.items()}


def _read(path):
    """The frames, or `None` for a `VideoError` that names the file; fails on anything else."""
    begun = time.thread_time()
    try:
        frames, failure = read_frames(path, 6, 16, frames_per_second=25.0, timeout=_LIMIT), None
    except VideoError as error:
        frames, failure = None, error
    assert time.thread_time() - begun < _LIMIT
    if failure is not None:
        assert (failure.path, bool(failure.reason)) == (str(path), True)
        return None
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (16, 16, 3)
    assert 1 <= len(frames) <= 6
    assert frames.max() > 0
    return frames


@pytest.mark.parametrize("kind", _KINDS)
def test_the_whole_files_are_read(whole, kind):
    frames = _read(whole[kind])
    assert len(frames) == 6
    assert frames.reshape(6, -1).max(1).min() > 200


@pytest.mark.parametrize("kind", _KINDS)
def test_flipped_bits(whole, kind, tmp_path):
    sound = np.frombuffer(whole[kind].read_bytes(), np.uint8)
    read = 0
    for seed, flips in itertools.product(range(3), (1, 3, 10, 30, 100)):
        rng = np.random.default_rng((seed, flips))
        data = sound.copy()
        # Half of the time in the headers, which are at the beginning or, in .mp4, at the end.
        span = (slice(None), slice(0, 600), slice(-1200, None))[seed]
        places = rng.integers(0, len(data[span]), flips)
        np.bitwise_xor.at(data[span], places, (1 << rng.integers(0, 8, flips)).astype(np.uint8))
        path = tmp_path / f"{seed}_{flips}{kind}"
        path.write_bytes(data.tobytes())
        read += _read(path) is not None
    assert read < 15


@pytest.mark.parametrize("kind", [*_KINDS, "faststart.mp4"])
def test_cut_at_every_tenth(whole, kind, tmp_path):
    """Nothing is left out silently where the container says how much there should be."""
    path = whole.get(kind) or _write(tmp_path / kind, faststart=True)
    data, expected = path.read_bytes(), _read(path)
    for tenth in range(10):
        path = tmp_path / f"{tenth}{kind}"
        path.write_bytes(data[: len(data) * tenth // 10])
        frames = _read(path)
        if frames is not None and kind in (".mp4", ".mov", ".3gp", "faststart.mp4"):
            np.testing.assert_array_equal(frames, expected)


def test_the_wrong_ending_changes_nothing(whole, tmp_path):
    for kind, ending in zip(_KINDS, [*_KINDS][3:] + [*_KINDS][:3], strict=True):
        path = tmp_path / f"{kind[1:]}_as{ending}"
        path.symlink_to(whole[kind])
        np.testing.assert_array_equal(_read(path), _read(whole[kind]))


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_turned_pictures_are_shown_upright(tmp_path, turn):
    path = _write(tmp_path / "turned.mp4", size=(48, 64), turn=turn)
    with av.open(str(path)) as file:
        lying = next(file.decode(video=0)).to_ndarray(format="rgb24")
    (upright,) = map_windows(np.asarray, path, [(None, None)], 1)
    np.testing.assert_array_equal(upright, [np.rot90(lying, turn // 90)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("variable.mp4", {"times": (0, 1, 2, 10, 11, 40, 41, 90)}),
        ("variable.mkv", {"times": (0, 1, 2, 10, 11, 40, 41, 90)}),
        ("odd.mp4", {"size": (63, 47), "pix_fmt": "yuv444p"}),
        ("odd.mkv", {"size": (65, 33), "pix_fmt": "yuv444p"}),
        ("one.mp4", {"times": (0,)}),
        ("one.mkv", {"times": (0,)}),
        ("one.avi", {"times": (0,), "codec": "mpeg4"}),
        ("pixel.mkv", {"size": (1, 1), "codec": "ffv1", "pix_fmt": "bgr0"}),
        ("narrow.mp4", {"size": (16, 1024)}),
        ("deep.mkv", {"pix_fmt": "yuv420p10le"}),
        ("grey.mkv", {"pix_fmt": "gray"}),
    ],
)
def test_unusual_videos_are_read(tmp_path, name, options):
    frames = _read(_write(tmp_path / name, **options))
    assert len(frames) == min(6, len(options.get("times", range(_FRAMES))))
    assert frames.reshape(len(frames), -1).max(1).min() > 50


def _sound(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())


def _huge(side):
    """The container is where this codec has its size from."""

    def make(path):
        data = _write(path, "ffv1", size=(320, 256)).read_bytes()
        for tag, size in ((b"\xb0\x82", 320), (b"\xba\x82", 256)):
            assert data.count(tag + struct.pack(">H", size)) == 1
            data = data.replace(tag + struct.pack(">H", size), tag + struct.pack(">H", side))
        path.write_bytes(data)

    return make


def test_a_wrong_size_in_the_container_alone_changes_nothing(whole, tmp_path):
    """H.264 says its size itself; the shape of its pixels is computed from the container's."""
    data, size, path = whole[".mp4"].read_bytes(), struct.pack(">HH", _WIDTH, _HEIGHT), tmp_path / "huge.mp4"
    place = data.index(size, data.index(b"avc1", data.index(b"stsd")))
    path.write_bytes(data[:place] + struct.pack(">HH", 30000, 30000) + data[place + 4 :])
    read = functools.partial(read_frames, max_frames=6, image_size=16, square_pixels=False)
    np.testing.assert_array_equal(read(path), read(whole[".mp4"]))


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("missing.mp4", lambda path: None, "No such file"),
        ("empty.mp4", lambda path: path.write_bytes(b""), "Invalid data"),
        ("zeros.mp4", lambda path: path.write_bytes(bytes(9999)), "Invalid data"),
        ("text.mp4", lambda path: path.write_text("a text\n" * 999), "Invalid data"),
        ("script.mp4", lambda path: path.write_text("ffconcat version 1.0\nfile clip.mp4\n"), "supported containers"),
        ("list.mp4", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nclip.mp4\n"), "supported containers|Invalid"),
        ("picture.mp4", lambda path: Image.new("RGB", (9, 9), "red").save(path, "png"), "supported containers"),
        ("sound.mp4", _sound, "holds no video stream"),
        ("sound.mkv", _sound, "holds no video stream"),
        ("huge.mkv", _huge(16000), "Invalid data"),
        ("larger.mkv", _huge(30000), "Invalid data"),
        (
            "thread.mkv",
            lambda path: _write(path, size=(2, 1024), pix_fmt="yuv444p"),
            "frames of 2x1024 pixels, too narrow",
        ),
        ("folder.mp4", lambda path: path.mkdir(), "Is a directory"),
        ("dangling.mp4", lambda path: path.symlink_to("nowhere.mp4"), "No such file"),
        ("circle.mp4", lambda path: path.symlink_to(path.name), "Too many levels"),
        ("pipe.mp4", os.mkfifo, "not a regular file"),
        ("device.mp4", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, make, reason):
    path = tmp_path / name
    make(path)
    with pytest.raises(VideoError, match=reason):
        read_frames(path, 6, 16, timeout=_LIMIT)


def test_a_forbidden_file_is_named(whole, tmp_path):
    path = tmp_path / "forbidden.mp4"
    path.write_bytes(whole[".mp4"].read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    with pytest.raises(VideoError, match="Permission denied"):
        read_frames(path, 6, 16)


def test_random_bytes(whole, tmp_path):
    """Also after the first bytes of a sound file, so that a demuxer takes them on."""
    for seed, kind in itertools.product(range(3), _KINDS):
        rng = np.random.default_rng(seed)
        path = tmp_path / f"random_{seed}{kind}"
        path.write_bytes(whole[kind].read_bytes()[: (0, 200, 1000)[seed]] + rng.bytes(20_000))
        _read(path)


def test_a_video_that_takes_too_long_is_given_up(whole):
    with pytest.raises(VideoError, match=r"clip\.mp4: no data for 1e-06 s"):
        read_frames(whole[".mp4"], 6, 16, timeout=1e-6)
    with OpenVideo(whole[".mp4"], 9.0) as video:
        video._end = time.thread_time()
        with pytest.raises(VideoError, match=r"clip\.mp4: not read after 9 s of processor time, at packet 0"):
            video.timeline()


@pytest.mark.slow
def test_flipped_bits_at_length(whole, tmp_path):
    for kind, seed in itertools.product(_KINDS, range(100)):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(whole[kind].read_bytes(), np.uint8).copy()
        flips = int(rng.integers(1, 200))
        places = rng.integers(0, len(data), flips)
        np.bitwise_xor.at(data, places, (1 << rng.integers(0, 8, flips)).astype(np.uint8))
        path = pathlib.Path(tmp_path, f"{seed}{kind}")
        path.write_bytes(data.tobytes())
        _read(path)
