"""Files of `cases`, which came from public reports of faults. Their pictures carry their time, as in `situations`."""

import json
import pathlib
import shutil

import av
import numpy as np
import pytest

from hbi_jax.data.decode import OpenVideo
from hbi_jax.data.facts import facts
from hbi_jax.data.video import VideoError, map_windows, read_frames
from tests.data.situations import KINDS, number, picture, write

CASES = pathlib.Path(__file__).parent / "cases"
_MP4, _MKV, _TS, _AVI = (next(kind for kind in KINDS if kind.ending == e) for e in (".mp4", ".mkv", ".ts", ".avi"))


def _numbers(name, *windows, density=1.0):
    return map_windows(lambda image: number(np.asarray(image)), CASES / name, windows, 12, density)


def test_a_recording_of_a_browser_is_sampled_in_time():
    """WebM without durations or a rate; FFmpeg guesses a thousand frames a second."""
    whole, clip = _numbers("jitter30.webm", (None, None), (3, 6))
    np.testing.assert_allclose(whole, [100 * second for second in (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13)], atol=4)
    np.testing.assert_allclose(clip, [300, 400, 500, 600], atol=4)


def test_a_rate_that_is_a_unit_of_time_is_measured():
    assert _numbers("k1000.mkv", (None, None), (3, 6)) == [list(range(0, 1000, 100)), [300, 400, 500, 600]]


def test_clips_of_a_variable_rate_are_where_they_say():
    """One frame a second for ten seconds, then thirty."""
    clips = _numbers("vfr.mp4", (5, 10), (0, 5), (10, 20), (None, None))
    assert clips[0] == [500, 600, 700, 800, 900, 1000]
    assert clips[1] == [0, 100, 200, 300, 400, 500]
    np.testing.assert_allclose(clips[2], range(1000, 2100, 100), atol=4)
    assert sum(time < 1000 for time in clips[3]) == 6


@pytest.mark.parametrize("name", ["cover_first.mkv", "two_streams.mp4"])
def test_the_video_is_read_and_not_the_picture_before_it(name):
    with OpenVideo(CASES / name) as video:
        assert (video.stream.codec_context.name, video.stream.width) == ("h264", 128)
    assert len(read_frames(CASES / name, 12, 16, frames_per_second=10.0)) == 12


def test_a_mirrored_picture_is_upright():
    (found,), *_ = map_windows(np.asarray, CASES / "hflip.mp4", [(None, None)], 1)
    with av.open(str(CASES / "hflip.mp4")) as file:
        stored = next(file.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(found, stored[:, ::-1])


def test_hdr_is_mapped():
    """A grey chart whose white, 100 cd/m2, is half as bright as reference white: 190 of 255, and not 159."""
    (found,), *_ = map_windows(np.asarray, CASES / "real_arib-std-b67.mp4", [(None, None)], 1)
    values = found.reshape(-1, 3).astype(int)
    greys = values[np.ptp(values, axis=1) < 4]
    assert greys.max() == pytest.approx(190, abs=4)


def test_what_is_unusual_is_told():
    words = {path.name: facts(path)[0].unusual() for path in sorted(CASES.glob("*.*"))}
    assert words == {
        "cover_first.mkv": ["of its 2 video streams, h264 128x96 is read"],
        "hflip.mp4": ["it is shown mirrored"],
        "jitter30.webm": ["its frame rate varies (30.23 a second on average)"],
        "k1000.mkv": ["it states 1000 frames a second and has 25"],
        "real_arib-std-b67.mp4": ["its colours (HLG) are mapped to those of an ordinary screen"],
        "two_streams.mp4": ["of its 2 video streams, h264 128x96 is read"],
        "vfr.mp4": ["its frame rate varies (15.48 a second on average)"],
    }


def test_facts_can_be_written():
    import dataclasses

    found, timeline = facts(CASES / "hflip.mp4")
    assert json.loads(json.dumps(dataclasses.asdict(found)))["mirrored"] is True
    assert (found.codec, found.width, found.height, found.frames) == ("h264", 128, 96, 20)
    assert len(timeline.times) == 20


def test_a_sound_file_with_a_cover_has_no_video(tmp_path):
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        cover, sound = container.add_stream("mjpeg", rate=25), container.add_stream("aac", rate=16000)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(VideoError, match="holds no video stream"):
        read_frames(path, 12, 16)


def test_frames_that_a_recorder_dropped_are_not_missing(tmp_path):
    """AVI counts them; every fifth."""
    times = [0.04 * frame for frame in range(100) if frame % 5 != 3]
    path = write(tmp_path / "drops.avi", _AVI, times)
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames > len(times)
    (clip,) = map_windows(lambda image: number(np.asarray(image)), path, [(None, None)], 12)
    assert clip == [0, 100, 200, 300]


def test_little_is_kept_however_long_a_video_is(tmp_path):
    """Of a container that does not say where its frames are, too."""
    path, kept = write(tmp_path / "long.ts", _TS, [0.04 * frame for frame in range(200)]), []
    map_windows(kept.append, path, [(None, None)], 5, 25.0)
    assert len(kept) == 5


@pytest.mark.parametrize("name", ["10:30.mp4", "2024-05-01T12:30:00.mp4", "-dash.mp4", "with blank .mp4", "file:x.mp4"])
def test_names_are_no_protocols(tmp_path, monkeypatch, name):
    shutil.copy(CASES / "k1000.mkv", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_frames(name, 12, 16)) == 10


def test_a_file_with_another_ending_is_told(tmp_path):
    (tmp_path / "clip.rmvb").touch()
    with pytest.raises(VideoError, match=r"No such file or directory, but there is clip\.rmvb, an ending that is not"):
        read_frames(tmp_path / "clip.mp4", 12, 16)
