import json
import pathlib
import pickle

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from hbi_jax.data.decode import OpenVideo
from hbi_jax.data.video import VideoError, map_windows, middle, read_frames, sample_indices, segment_places

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
GREYS = [10 + 10 * number for number in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def clip(folder, write_video):
    """24 frames, 8 a second."""
    return write_video(folder / "clip.mp4", GREYS)


def _numbers(frames):
    """The frame numbers that the greys tell."""
    greys = frames.reshape(len(frames), -1).astype(float)
    assert greys.std(axis=1).max() < 3
    return np.rint((greys.mean(axis=1) - 10) / 10).astype(int).tolist()


@pytest.mark.parametrize("case", json.loads((GOLDEN / "frame_sampling.json").read_text()))
def test_indices_are_the_published_ones(case):
    expected = case.pop("indices")
    assert sample_indices(**case).tolist() == expected


def test_a_denser_grid_divides_the_stride():
    assert sample_indices(24, 8.0, 12, frames_per_second=4.0).tolist() == list(range(0, 24, 2))
    assert sample_indices(24, 8.0, 6, frames_per_second=100.0).tolist() == [0, 4, 9, 13, 18, 23]


def test_a_clip_after_the_end_has_no_frames():
    assert sample_indices(24, 8.0, 12, start=3.0).tolist() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_frames": 0}, "max_frames: got 0"),
        ({"fps": 0.0}, "fps: got 0.0"),
        ({"num_frames": 0}, "num_frames: got 0"),
        ({"frames_per_second": -1.0}, "frames_per_second: got -1.0"),
        ({"start": -1.0}, "start, end: got -1.0, None"),
        ({"start": 2.0, "end": 1.0}, "start, end: got 2.0, 1.0"),
    ],
)
def test_impossible_sampling_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sample_indices(**({"num_frames": 24, "fps": 8.0, "max_frames": 12} | change))


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, [0, 8, 16]),
        ({"frames_per_second": 4.0}, list(range(0, 24, 2))),
        ({"frames_per_second": 8.0}, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 23]),
        ({"frames_per_second": 8.0, "start": 1.0, "end": 1.5}, [8, 9, 10, 11, 12]),
        ({"start": 1.5}, [12, 20]),
    ],
)
def test_the_sampled_frames_are_read(clip, options, numbers):
    assert _numbers(read_frames(clip, 12, 16, **options)) == numbers


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi", "clip.mov"])
def test_other_containers_give_the_same_frames(folder, clip, write_video, name):
    """Matroska declares no number of frames: they are counted."""
    path = write_video(folder / name, GREYS)
    for options in ({}, {"frames_per_second": 8.0}, {"start": 1.0, "end": 2.0}):
        expected = read_frames(clip, 12, 16, **options)
        np.testing.assert_array_equal(read_frames(path, 12, 16, **options), expected)


def test_frames_are_resized_and_cropped(folder, write_video):
    path = write_video(folder / "wide.mp4", [50, 100], size=(24, 48), fps=1)
    with av.open(str(path)) as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)]
    for frame, picture in zip(read_frames(path, 2, 12), pictures, strict=True):
        expected = np.asarray(picture.resize((24, 12), Image.Resampling.BICUBIC))[:, 6:18]
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("name", ["wide.mp4", "wide.mkv"])
def test_each_frame_is_changed_before_it_is_resized(folder, write_video, name):
    """Those of Matroska are counted first; what is done does not depend on it."""
    path = write_video(folder / f"changed_{name}", [50, 100, 150], size=(24, 48), fps=1)
    plain, seen = read_frames(path, 3, 12), []

    def mirrored_negative(picture):
        seen.append((picture.size, picture.mode))
        return ImageOps.mirror(ImageOps.invert(picture))

    np.testing.assert_array_equal(read_frames(path, 3, 12, transform=mirrored_negative), 255 - plain[:, :, ::-1])
    assert seen == [((48, 24), "RGB")] * 3
    cropped = read_frames(path, 3, 12, transform=lambda picture: picture.crop((0, 0, 5, 5)))
    np.testing.assert_array_equal(cropped, plain)


def test_a_single_frame_is_a_video(folder, write_video):
    assert _numbers(read_frames(write_video(folder / "one.mp4", [50]), 12, 16)) == [4]


def test_frames_hidden_by_an_edit_list_are_not_counted(folder, clip):
    """The container declares 24 frames and shows the last 17."""
    path = folder / "edited.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                shift = int(7 / 8 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 24
    assert _numbers(read_frames(path, 32, 16, frames_per_second=8.0)) == list(range(7, 24))


def _without_video(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("missing.mp4", lambda path: None, "No such file"),
        ("folder.mp4", lambda path: path.mkdir(), "Is a directory"),
        ("empty.mp4", lambda path: path.write_bytes(b""), "Invalid data"),
        ("random.mp4", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "Invalid data"),
        ("text.mp4", lambda path: path.write_text("not a video\n" * 99), "Invalid data"),
        ("sound.mp4", _without_video, "no video stream"),
    ],
)
def test_what_is_not_a_video_is_named(tmp_path, name, make, reason):
    path = tmp_path / name
    make(path)
    with pytest.raises(VideoError, match=reason) as caught:
        read_frames(path, 12, 16)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_a_truncated_file_is_unreadable(tmp_path, write_video):
    """Cut anywhere, it gives the frames of the whole file or none at all."""
    whole_path = write_video(tmp_path / "whole.mp4", GREYS, size=(64, 64), faststart=True)
    whole, data = read_frames(whole_path, 12, 16, frames_per_second=4.0), whole_path.read_bytes()
    path, reasons = tmp_path / "cut.mp4", []
    for size in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:size])
        try:
            np.testing.assert_array_equal(read_frames(path, 12, 16, frames_per_second=4.0), whole)
        except VideoError as error:
            reasons.append(error.reason)
    assert len(reasons) >= 38
    assert any(reason.startswith("truncated or damaged after") for reason in reasons)


def test_a_truncated_file_that_declares_no_frames_is_unreadable(tmp_path, write_video):
    data = write_video(tmp_path / "whole.mkv", [*GREYS] * 3, size=(64, 64)).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"truncated at \d\.\d of the declared 9\.0 s"):
        read_frames(path, 12, 16)


def test_a_file_that_ends_before_the_clip_is_unreadable(clip):
    with pytest.raises(VideoError, match="ends before the wanted clip starts"):
        read_frames(clip, 12, 16, start=3.5)


def test_no_frame_rate_at_all_is_an_error(clip, monkeypatch):
    """Pictures that all have one time."""
    with OpenVideo(clip) as video:
        packets = list(video._demux())
        for packet in packets:
            packet.pts = packet.dts = 0
        monkeypatch.setattr(video, "_demux", lambda: iter(packets))
        with pytest.raises(VideoError, match=r"clip\.mp4: states no frame rate"):
            video.timeline()


def test_the_error_survives_pickling():
    """Worker processes send errors as pickles."""
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "broken")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "broken", "a.mp4: broken")


def _moving(path, codec, options, fps=8):
    """40 frames of a moving texture: each is predicted from others."""
    texture = np.kron(np.random.default_rng(0).integers(0, 255, (30, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        for number in range(40):
            x = int(40 + 40 * np.sin(number / 3))
            pixels = np.ascontiguousarray(texture[number : number + 48, x : x + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("codec", "options", "in_groups"),
    [
        ("libx264", {}, True),
        ("libx264", {"x264-params": "bframes=8:b-pyramid=strict:b-adapt=0"}, True),
        ("libx264", {"x264-params": "open-gop=1:b-adapt=0:scenecut=0"}, False),
        ("libx264", {"x264-params": "intra-refresh=1"}, False),
        ("libx265", {"x265-params": "log-level=none:open-gop=0"}, True),
        ("libx265", {"x265-params": "log-level=none:open-gop=1:scenecut=0:b-adapt=0"}, False),
        ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}, True),
        ("mpeg4", {"bf": "2"}, False),
    ],
)
def test_what_is_passed_over_changes_no_pixel(tmp_path, codec, options, in_groups, ending):
    """Frames read alone or in any company are those of decoding everything."""
    path = _moving(tmp_path / f"clip.{ending}", codec, options)
    with OpenVideo(path) as opened:
        assert len(opened.timeline().times) == 40
        everything = [*opened._decode_through(opened._shown.tolist(), np.asarray).values()]
    assert len(everything) == 40
    for wanted in ([0], [39], [11, 12, 13], list(range(5, 40, 7))):
        with OpenVideo(path) as opened:
            opened.timeline()
            decoded = opened.decode(wanted, np.asarray)
            assert opened._is_grouped() == in_groups
        assert sorted(decoded) == wanted
        for number in wanted:
            np.testing.assert_array_equal(decoded[number], everything[number])


def test_little_is_decoded(tmp_path, monkeypatch):
    """Of three groups of pictures, one, and of that what the wanted frame needs."""
    path = _moving(tmp_path / "clip.mp4", "libx264", {"x264-params": "b-adapt=0:bframes=3:b-pyramid=none:scenecut=0"})
    sent = []

    class Counting:
        """The decoder, which also counts what it is sent."""

        def __init__(self, context):
            object.__setattr__(self, "context", context)

        def __getattr__(self, name):
            return getattr(self.context, name)

        def __setattr__(self, name, value):
            setattr(self.context, name, value)

        def decode(self, packet):
            sent.append(packet)
            return self.context.decode(packet)

    with OpenVideo(path) as opened:
        opened.timeline()
        monkeypatch.setattr(opened, "_context", Counting(opened._context))
        opened.decode([30], np.asarray)
    assert 1 < len(sent) <= 13


def test_several_clips_of_a_file_are_decoded_once(clip):
    windows = [(None, None), (1.0, 2.0), (1.5, None), (9.0, None), (0.0, 0.5)]
    calls = []

    def keep(picture):
        calls.append(picture.getpixel((0, 0))[0])
        return len(calls)

    found = map_windows(keep, clip, windows[:3], 4, 8.0)
    assert [_grey_number(calls[number - 1]) for number in found[0]] == [0, 7, 15, 23]
    assert len(calls) == len({number for numbers in found for number in numbers})
    everything = map_windows(np.asarray, clip, windows, 4, 8.0)
    for (start, end), frames in zip(windows, everything, strict=True):
        if start == 9.0:
            assert isinstance(frames, VideoError)
        else:
            expected = read_frames(clip, 4, 16, start, end, 8.0)
            np.testing.assert_array_equal(np.stack(frames), expected)


def _grey_number(grey):
    return round((grey - 10) / 10)


def test_a_header_that_promises_everything_costs_nothing():
    """Not even the memory of the numbers of the frames."""
    assert sample_indices(2**40, 25.0, 3).tolist() == [0, 25 * ((2**40 - 1) // 50), 25 * ((2**40 - 1) // 25)]


def test_segments_by_hand():
    """Ten frames in three segments: 0 to 2, 3 to 5, 6 to 9; the first, the middle and the last frame of each."""
    assert segment_places(10, 3, (0.0, 0.0, 0.0)).tolist() == [0, 3, 6]
    assert segment_places(10, 3, middle(3)).tolist() == [1, 4, 8]
    assert segment_places(10, 3, (0.99, 0.99, 0.99)).tolist() == [2, 5, 9]
    assert segment_places(3, 3, middle(3)).tolist() == segment_places(3, 3, (0.0, 0.9, 0.3)).tolist() == [0, 1, 2]
    assert segment_places(2, 3, middle(3)).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"draws: got \(0.5, 1.0\), wanted 2 numbers in \[0, 1\)"):
        segment_places(5, 2, (0.5, 1.0))


def test_segments_of_the_grid():
    """A frame every half second from 1 s to 5 s is 10, 15, ... 50; longer grids are thinned first."""
    draws = (0.0, 0.5, 0.9)
    assert sample_indices(100, 10.0, 3, 1.0, 5.0, 2.0, draws=draws).tolist() == [10, 30, 50]
    long = sample_indices(10**12, 1.0, 4, draws=middle(4))
    assert (long / 10**12).tolist() == pytest.approx([0.126, 0.376, 0.626, 0.876], abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_every_frame_of_a_segment_can_be_drawn(seed):
    """And none of another one."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([segment_places(13, 4, tuple(rng.random(4))) for _ in range(200)])
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11, 12]]
