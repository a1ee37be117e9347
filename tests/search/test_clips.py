"""Where clips begin, which frames they have, and when these are shown."""

import sys
import types

import numpy as np
import pytest

from hbi_jax.data.decode import VideoError
from hbi_jax.data.video import read_frames
from hbi_jax.search import clips as module
from hbi_jax.search.clips import ClipSettings, pictures, read_clips, spans
from hbi_jax.search.config import SearchError

SETTINGS = ClipSettings(4.0, 2.0, "windows", 5, 1.25, 16)


def test_windows_overlap_and_end_with_the_video():
    assert spans(6.0, 4.0, 2.0) == [(0.0, 6.0)]
    assert spans(10.0, 4.0, 2.0) == [(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 10.0)]
    assert spans(11.0, 4.0, 4.0, begin=1.0) == [(1.0, 5.0), (5.0, 9.0), (8.0, 12.0)]


def test_a_short_video_is_one_clip_as_evaluation_reads_it(rendered):
    path = min(rendered.glob("video*.mp4"))
    clips, later = read_clips(path, SETTINGS)
    assert (len(clips.start), list(later)) == (1, [])
    frames = read_frames(path, 5, 16, frames_per_second=1.25)
    np.testing.assert_array_equal(clips.frames[0][clips.mask[0]], frames)
    np.testing.assert_allclose(clips.times[0], [0, 0.75, 1.5, 2.25, 2.25], atol=1e-3)
    assert (clips.start[0], clips.end[0]) == (0, 3)


def test_a_long_video_is_read_in_portions(rendered, monkeypatch):
    path = rendered / "long.mp4"
    whole, later = read_clips(path, SETTINGS)
    assert not later
    assert whole.start.tolist() == [0, 2, 4, 6, 8]
    assert whole.end.tolist() == [4, 6, 8, 10, 12]
    # Six frames of the grid, every 0.75 s, are one too many; the frame at 6 s belongs to the next clip.
    np.testing.assert_allclose(whole.times[1], [2, 2.75, 3.5, 4.25, 5.75], atol=1e-3)
    monkeypatch.setattr(module, "PORTION", 2)
    parts, later = [], None
    while later is None or later:
        part, later = read_clips(path, SETTINGS, later)
        parts.append(part)
    assert [len(part.start) for part in parts] == [2, 2, 1]
    for name, rows in whole._asdict().items():
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), rows)


def test_clips_begin_at_shots_where_they_are_wanted(rendered, monkeypatch):
    class Time:
        def __init__(self, seconds):
            self.seconds = seconds

        def get_seconds(self):
            return self.seconds

    found = [(Time(0.0), Time(1.5)), (Time(1.5), Time(12.0))]
    fake = types.SimpleNamespace(detect=lambda path, detector: found, AdaptiveDetector=lambda: None)
    monkeypatch.setitem(sys.modules, "scenedetect", fake)
    clips, _ = read_clips(rendered / "long.mp4", SETTINGS._replace(cut="shots"))
    assert list(zip(clips.start.tolist(), clips.end.tolist(), strict=True))[:3] == [(0, 1.5), (1.5, 5.5), (3.5, 7.5)]

    class Failure(Exception):
        """An error with no base but this, as PySceneDetect's are."""

    def fail(path, detector):
        raise Failure("Failed to open video")

    fake.detect = fail
    with pytest.raises(VideoError, match=r"long.mp4: its shots cannot be found \(Failed to open video\)"):
        read_clips(rendered / "long.mp4", SETTINGS._replace(cut="shots"))
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(SearchError, match=r"cut='shots': wanted PySceneDetect .* pip install scenedetect"):
        read_clips(rendered / "long.mp4", SETTINGS._replace(cut="shots"))


def test_a_damaged_file_has_no_clips(rendered, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((rendered / "long.mp4").read_bytes()[:-2000])
    with pytest.raises(VideoError, match=r"cut.mp4: "):
        read_clips(cut, SETTINGS)


def test_pictures_are_those_of_the_times(rendered):
    path = rendered / "long.mp4"
    frames = read_frames(path, 96, 32, frames_per_second=8.0)
    first, again, last = pictures(path, [0.0, 0.0, 11.9], 32)
    np.testing.assert_array_equal(np.asarray(first), frames[0])
    np.testing.assert_array_equal(np.asarray(again), frames[0])
    np.testing.assert_array_equal(np.asarray(last), frames[95])
    assert pictures(path, [1.0], 16)[0].size == (16, 16)
