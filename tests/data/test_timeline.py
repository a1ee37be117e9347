import numpy as np
import pytest

from hbi_jax.data.timeline import Timeline
from hbi_jax.data.video import sample_indices, sample_times


def _line(times, stays=None, **options):
    times = np.asarray(times, float)
    return Timeline(times, float(times[-1]) + (np.median(np.diff(times)) if stays is None else stays), **options)


_CONSTANT = _line(np.arange(100) / 25, stated=25.0)
# One a second for ten seconds, then thirty a second for as long.
_VARIABLE = _line([*range(10), *(10 + np.arange(300) / 30)], stated=14.1)


@pytest.mark.parametrize(
    ("times", "options", "constant", "rate"),
    [
        (np.arange(100) / 25, {"stated": 25.0}, True, 25.0),
        (np.round(np.arange(300) / 29.97, 3), {"stated": 30000 / 1001}, True, 30000 / 1001),
        (np.arange(100) / 25, {"stated": 1000.0}, True, 25.0),  # the unit of time, written as a rate
        (np.arange(100) / 25, {}, True, 25.0),
        (np.arange(3) / 60, {"stated": 60.0}, True, 60.0),
        (np.round(np.arange(3) / 60, 3), {"stated": 60.0}, True, 60.0),
        ([0, 1, 2, 4, 5, 6], {"stated": 1.0}, False, 5 / 6),
        (np.arange(100) / 25, {"stated": 25.0, "stays": 10.0}, False, 25.0),
        ([0.0], {"stated": 25.0, "stays": 0.04}, True, 25.0),
        ([0.0], {"stays": 5.0}, True, 1.0),
    ],
)
def test_a_rate_is_believed_where_the_times_agree(times, options, constant, rate):
    line = _line(times, **options)
    assert line.is_constant == constant
    assert line.rate == pytest.approx(rate)


def test_a_constant_rate_follows_the_published_rule():
    for clip in ({}, {"start": 1.0}, {"start": 0.5, "end": 2.9}, {"end": 100.0}):
        for density in (1.0, 4.0, 100.0):
            expected = sample_indices(100, 25.0, 12, **clip, frames_per_second=density)
            assert sample_times(_CONSTANT, 12, **clip, frames_per_second=density).tolist() == expected.tolist()


def _times(line, *args, **options):
    return line.times[sample_times(line, 30, *args, **options)].tolist()


def test_a_variable_rate_gives_what_a_player_shows():
    assert _times(_VARIABLE) == pytest.approx(range(20))
    assert _times(_VARIABLE, 5, 10) == pytest.approx([5, 6, 7, 8, 9, 10])
    assert _times(_VARIABLE, 8.5, 11.5) == pytest.approx([8, 9, 10.5, 11.5])
    assert _times(_VARIABLE, 8.5, 11.5, frames_per_second=2.0) == pytest.approx([8, 9, 9, 10, 10.5, 11, 11.5])
    assert _VARIABLE.times[sample_times(_VARIABLE, 5)].tolist() == pytest.approx([0, 4, 9, 14, 19])


def test_a_last_picture_that_stays_is_sampled_as_long_as_it_is_shown():
    assert _times(_line([0, 1, 2], stays=3.0)) == [0, 1, 2, 2, 2]


def test_pictures_that_start_late_are_shown_late():
    late = _line(2 + np.arange(100) / 25, stated=25.0)
    assert late.times[sample_times(late, 12)].tolist() == pytest.approx([2, 3, 4, 5])
    assert late.times[sample_times(late, 12, 3.0, 5.0)].tolist() == pytest.approx([3, 4, 5])
    assert late.times[sample_times(late, 12, 0.0, 3.0)].tolist() == pytest.approx([2, 3])
    variable = _line([3, 4, 4.1, 9])
    assert _times(variable, 0, 5) == pytest.approx([3, 4, 4.1])
    assert sample_times(variable, 12, 0, 2).tolist() == []
    assert sample_times(late, 12, 0, 1).tolist() == []


def test_a_clip_after_the_end_is_empty():
    assert sample_times(_VARIABLE, 12, start=21.0).tolist() == []
    assert sample_times(_CONSTANT, 12, start=5.0).tolist() == []


def test_the_part_before_a_time():
    assert _VARIABLE.until(None) is _VARIABLE
    part = _VARIABLE.until(9.0)
    assert part.times.tolist() == list(range(10))
    assert part.is_constant
    assert part.end == 10.0
