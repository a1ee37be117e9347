"""The command: what it prints and writes, and its exit code."""

import io
import json
import os
import re
import sys

import pytest

from hbi_jax import ask
from hbi_jax.commands import apply
from hbi_jax.tasks.answers import inference
from hbi_jax.tasks.answers.inference import Answer

QUESTION = "what happens first?"


@pytest.fixture(autouse=True)
def _logging(monkeypatch):
    """Leaves the tests' own logging alone."""
    monkeypatch.setattr(apply, "start_logging", lambda verbose: None)


@pytest.fixture
def video(world):
    return str(min((world / "videos").glob("*.mp4")))


def test_answers_are_printed_and_written_whatever_cannot_be_read(answered, video, tmp_path, capsys):
    file = tmp_path / "answers.jsonl"
    file.write_text("of an earlier time\n")
    absent = str(tmp_path / "absent.mp4")
    code = ask.main([f"--checkpoint={answered}", video, absent, QUESTION, "--top=2", f"--jsonl={file}"])
    assert code == 1
    said = capsys.readouterr()
    heading, first, second = said.out.splitlines()
    assert heading == f"{video}: {QUESTION}"
    good, bad = [json.loads(line) for line in file.read_text().splitlines()]
    assert (good["video"], good["question"], good["error"]) == (video, QUESTION, None)
    for line, answer, probability in zip((first, second), good["answers"], good["probabilities"], strict=True):
        assert line.split(maxsplit=1)[0] == answer.split()[0]
        assert line.endswith(f" {100 * probability:.1f} %")
    assert (bad["video"], bad["answers"], bad["probabilities"]) == (absent, [], [])
    assert said.err.splitlines()[-1] == f"error: {bad['error']}"
    assert "absent.mp4" in bad["error"]


def test_all_is_well(monkeypatch, capsys):
    asked = []

    def answer(*arguments):
        asked.append(arguments)
        return [Answer(video, QUESTION, ("bounce", "slide up"), (0.75, 0.125)) for video in arguments[1]]

    monkeypatch.setattr(inference, "answer_questions", answer)
    assert ask.main(["a.mp4", "--checkpoint=runs/a", "b.mp4", QUESTION]) == 0
    assert asked == [("runs/a", ["a.mp4", "b.mp4"], QUESTION, 5)]
    lines = [f"{{}}: {QUESTION}", "  bounce     75.0 %", "  slide up   12.5 %"]
    assert capsys.readouterr().out.splitlines() == [line.format(name) for name in ("a.mp4", "b.mp4") for line in lines]


def test_files_whose_names_are_not_unicode(monkeypatch, tmp_path):
    strange = os.fsdecode(b"caf\xe9.mp4")
    monkeypatch.setattr(
        inference, "answer_questions", lambda *arguments: [Answer(strange, QUESTION, ("bounce",), (0.75,))]
    )
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    file = tmp_path / "answers.jsonl"
    assert ask.main(["a.mp4", "--checkpoint=runs/a", QUESTION, f"--jsonl={file}"]) == 0
    sys.stdout.flush()
    assert raw.getvalue().startswith(b"caf\xe9.mp4: ")
    assert json.loads(file.read_text())["video"] == strange


def test_an_interruption_is_one_line_and_loses_nothing(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "answer_questions", interrupted)
    file = tmp_path / "answers.jsonl"
    file.write_text("of an earlier time\n")
    assert ask.main(["a.mp4", "--checkpoint=runs/a", QUESTION, f"--jsonl={file}"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert file.read_text() == "of an earlier time\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--checkpoint=runs/a", "--", "-dash.mp4", "b.mp4", "--why?"],
        ["b.mp4", "--checkpoint", "runs/a", "--top=5", "--", "-dash.mp4", "--why?"],
    ],
)
def test_after_two_dashes_nothing_is_an_option(monkeypatch, arguments):
    asked = []
    monkeypatch.setattr(inference, "answer_questions", lambda *arguments: asked.append(arguments) or [])
    assert ask.main(arguments) == 0
    ((checkpoint, videos, question, top),) = asked
    assert (checkpoint, set(videos), question, top) == ("runs/a", {"-dash.mp4", "b.mp4"}, "--why?", 5)


def test_what_cannot_work_is_one_line(answered, video, tmp_path, capsys):
    kept = tmp_path / "kept.jsonl"
    kept.write_text("kept\n")
    for arguments, message in (
        ([f"--checkpoint={answered}", video, video], "the last argument, .* is a file: wanted a question"),
        ([f"--checkpoint={tmp_path}", video, QUESTION, f"--jsonl={kept}"], "is not the work folder of a run"),
        ([f"--checkpoint={answered}", video, QUESTION, f"--jsonl={tmp_path}"], "Is a directory"),
        ([f"--checkpoint={answered}", video, QUESTION, "--top=0"], "top=0: wanted 1 answer or more"),
    ):
        assert ask.main(arguments) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert re.search(message, said.err)
    assert kept.read_text() == "kept\n"


@pytest.mark.parametrize("arguments", [[], ["--checkpoint=runs/a", "video.mp4"]])
def test_what_is_missing_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        ask.main(arguments)
    assert stopped.value.code == 2
    assert "required" in capsys.readouterr().err
