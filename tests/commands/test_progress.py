"""Progress: the lines it prints, where and when."""

import io
import sys

import pytest

from hbi_jax.commands.progress import Progress, format_duration


class Clock:
    """A clock that stands still until told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_log_prints_a_line_an_interval():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, "encode videos", stream=stream, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.25
            progress.update()
    assert stream.getvalue().splitlines() == [
        "encode videos 40/100  40.0%  4.0/s  ETA 0:15",
        "encode videos 80/100  80.0%  4.0/s  ETA 0:05",
        "encode videos 100/100 100.0%  in 0:25 (4.0/s)",
    ]


def test_progress_on_a_terminal_rewrites_its_line():
    clock, stream = Clock(), Terminal()
    with Progress(4, "render", stream=stream, clock=clock) as progress:
        for pause in (0.06, 0.06, 0.06, 0.06):
            clock.now += pause
            progress.update()
    lines = stream.getvalue().split("\r")
    assert lines[0] == ""
    assert [line.split("%")[0] for line in lines[1:]] == [
        "render 2/4  50.0",
        "render 4/4 100.0",
        "render 4/4 100.0",
    ]
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("in 0:01 (16.7/s)\x1b[K\n")


def test_progress_says_when_the_work_is_broken_off():
    clock, stream = Clock(), io.StringIO()

    def work():
        with Progress(10, "render", stream=stream, clock=clock) as progress:
            clock.now += 2
            progress.update(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue() == "render 3/10  30.0%  stopped after 0:02 (1.5/s)\n"


def test_progress_of_nothing(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(0, "encode", clock=Clock()):
        pass
    assert stream.getvalue() == "encode 0/0 100.0%  in 0:00\n"


def test_progress_that_is_not_shown_prints_nothing(capsys):
    with Progress(2, "encode", interval=0.0, shown=False) as progress:
        progress.update()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (-3.0, "0:00"), (0.2, "0:01"), (59.5, "1:00"), (754, "12:34"), (3599.1, "1:00 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
