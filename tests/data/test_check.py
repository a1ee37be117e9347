import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import av
import numpy as np
import pytest
from absl import flags

from configs.msrvtt import get_config
from hbi_jax.data import __main__ as front
from hbi_jax.data import check as library
from hbi_jax.data.check import Findings, Problem, check
from hbi_jax.data.datasets import Record, Split
from hbi_jax.data.datasets.records import Note
from hbi_jax.data.processes import spread
from hbi_jax.data.text import Tokenizer
from tests.data.situations import Kind, write

ROOT = pathlib.Path(__file__).parents[2]
GREYS = [10 + 10 * number for number in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_video):
    """Videos of three seconds, 8 frames a second, of which most have something wrong."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "good.mp4", GREYS)
    write_video(folder / "other.mp4", GREYS[::-1])
    write_video(folder / "black.avi", [0, 4, 8] * 8)
    write_video(folder / "unmentioned.mp4", [50])
    shutil.copy(folder / "good.mp4", folder / "copy.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("no video either")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return folder


def _split(folder, name, *rows):
    """Rows are a file's name, a text if not "a text", and a clip's begin and end."""
    records = []
    for file, text, *clip in rows:
        video_id = file + "".join(f"_{time}" for time in clip)
        records.append(Record(text or "a text", video_id, folder / file, *clip))
    return Split(name, tuple(records))


def _check(splits, **options) -> Findings:
    return check(splits, Tokenizer(6), 12, 4.0, num_processes=1, show_progress=False, **options)


def _found(findings) -> list[tuple[str, str]]:
    return [(problem.kind, problem.subject) for problem in findings.problems]


def test_sound_videos_have_no_problems(folder):
    splits = [_split(folder, "train", ("good.mp4", "")), _split(folder, "test", ("other.mp4", "", 1.0, 2.0))]
    findings = _check(splits)
    assert (findings.num_videos, findings.num_bad, findings.problems) == (2, 0, [])
    assert findings.is_acceptable(0.0)


def test_each_bad_video_is_named_with_its_kind_and_reason(folder):
    rows = [(name, "") for name in ("gone.mp4", "broken.mp4", "sound.mp4", "black.avi", "good.mp4")]
    findings = _check([_split(folder, "train", *rows, ("other.mp4", "", 5.0, 6.0))])
    assert _found(findings) == [
        ("missing", "gone.mp4"),
        ("unreadable", "broken.mp4"),
        ("no video", "sound.mp4"),
        ("too short", "other.mp4_5.0_6.0"),
        ("black", "black.avi"),
    ]
    reasons = [
        "No such file",
        "Invalid data",
        "holds no video stream",
        "ends before the wanted clip",
        "all 12 frames are black",
    ]
    for problem, reason in zip(findings.problems, reasons, strict=True):
        assert reason in problem.reason
        assert problem.splits == ["train"]
    assert (findings.num_videos, findings.num_bad) == (6, 5)
    assert findings.is_acceptable(5 / 6)
    assert not findings.is_acceptable(0.83)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ((0.0, 3.0), None),
        ((0.0, 4.0), None),  # rounded up
        ((0.0, 5.0), None),  # twelve frames, more are not wanted
        ((2.0, 5.0), "4 of 8 frames"),
        ((2.0, 3.5), None),
    ],
)
def test_a_clip_has_the_frames_that_it_promises(folder, clip, reason):
    findings = _check([_split(folder, "train", ("good.mp4", "", *clip))])
    assert [(problem.kind, problem.reason.split(": ")[1]) for problem in findings.problems] == (
        [("short", reason)] if reason else []
    )
    assert findings.num_bad == 0


def test_the_same_content_is_found_within_and_across_splits(folder):
    train = _split(folder, "train", ("good.mp4", ""), ("copy.mp4", ""), ("other.mp4", "", 0.0, 1.0))
    test = _split(folder, "test", ("copy.mp4", ""), ("other.mp4", "", 1.0, 2.0))
    assert _check([train, test]).problems == [
        Problem("duplicated", "good.mp4", "same clip as copy.mp4", ["train", "test"]),
        Problem("shared", "2 videos", f"{folder / 'good.mp4'} and 1 more", ("train", "test")),
    ]


def test_files_that_no_split_mentions_are_listed(folder):
    train, test = _split(folder, "train", ("good.mp4", ""), ("sound.mp4", "")), _split(folder, "test", ("copy.mp4", ""))
    findings = _check([test], others=[train], videos=folder)
    names = ["broken.mp4", "other.mp4", "unmentioned.mp4", "black.avi"]
    assert _found(findings) == [("unreferenced", str(folder / name)) for name in names]


def test_texts(folder):
    rows = [
        ("good.mp4", "one two three four"),
        ("good.mp4", "one two three four five"),
        ("good.mp4", "One  two three four"),
    ]
    findings = _check([_split(folder, "train", *rows)])
    assert (findings.splits["train"].texts, findings.splits["train"].texts_cut) == (3, 1)
    assert findings.problems == [Problem("repeated", "good.mp4", "'one two three four' 2 times", ("train",))]


def test_a_split_that_cannot_be_read_is_never_acceptable(folder):
    findings = _check([_split(folder, "train", ("good.mp4", ""))], broken={"test": "test.csv: got nothing"})
    assert findings.problems == [Problem("annotations", "test", "test.csv: got nothing")]
    assert not findings.is_acceptable(1.0)


def test_the_summary_names_what_the_json_has(folder):
    rows = [(f"gone{number}.mp4", "") for number in range(23)]
    findings = _check([_split(folder, "train", ("good.mp4", "one two three four five"), *rows)])
    assert json.loads(findings.json())["problems"][0] == {
        "kind": "missing",
        "subject": "gone0.mp4",
        "reason": f"{folder / 'gone0.mp4'}: No such file or directory",
        "splits": ["train"],
    }
    text = findings.markdown()
    assert "23 of 24 videos are bad (95.83%)." in text
    assert "| train | 24 | 24 | 1 (4.2%) |" in text
    assert "## missing: 23" in text
    assert "gone19.mp4" in text
    assert "gone20.mp4" not in text
    assert "- and 3 more" in text


def _fragile(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_what_kills_its_process_is_named_and_costs_no_other():
    results = spread(_fragile, [(number,) for number in range(7)], "squares", 2, show_progress=False)
    assert results == [None if number == 3 else number * number for number in range(7)]


@pytest.fixture
def mine(folder, tmp_path):
    """Annotations in MSR-VTT's layout of some of the videos, and the command that checks them."""
    ids = ["good", "other", "gone"]
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(ids))
    sentences = [{"video_id": name, "caption": name, "sen_id": number} for number, name in enumerate(ids)]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}))
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("video_id,sentence\ncopy,a copy\n")
    return [
        *(sys.executable, "-m", "hbi_jax.data", "check", f"--config={ROOT / 'configs' / 'msrvtt.py'}"),
        *(f"--config.data.annotations={tmp_path}", f"--config.data.videos={folder}", "--config.data.num_val_videos=0"),
    ]


def _run(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command(mine, tmp_path):
    done = _run([*mine, f"--out={tmp_path / 'out'}"])
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    kinds = [(problem["kind"], problem["subject"]) for problem in found["problems"]]
    assert kinds[:3] == [("missing", "gone"), ("duplicated", "good"), ("shared", "1 videos")]
    assert {kind for kind, _ in kinds[3:]} == {"unreferenced"}
    assert done.stdout.startswith((tmp_path / "out" / "check.md").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "check.md"]


class _Flag(flags.FlagHolder):
    name = value = None

    def __init__(self, name, value):
        self.name, self.value = name, value


@pytest.fixture
def run_here(mine, monkeypatch):
    """Runs the command in this process, which is quicker, with the flags that are given."""

    def run(splits=None, out=None, threshold=None, **fields):
        config = get_config()
        config.data.update(fields)
        for name, value in (("CONFIG", config), ("WORKDIR", None)):
            monkeypatch.setattr(front.cli, name, _Flag(name.lower(), value))
        for name, value in (("_SPLITS", splits), ("_OUT", out), ("_THRESHOLD", threshold)):
            monkeypatch.setattr(front, name, _Flag(name, value))
        return front.COMMANDS["check"]()

    folders = dict(argument.removeprefix("--config.data.").split("=") for argument in mine[-3:-1])
    return functools.partial(run, **folders, num_val_videos=0)


def test_the_home_folder_may_be_meant(run_here, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run_here(out="~/found")
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["check.json", "check.md"]
    assert not (tmp_path / "~").exists()


def test_the_threshold_and_the_splits(run_here, capsys):
    assert run_here() == 1
    assert "1 of 4 videos are bad (25.00%)" in capsys.readouterr().out
    assert run_here(threshold=0.25) == 0
    assert "shared" in capsys.readouterr().out
    assert run_here(splits=["test"]) == 0
    text = capsys.readouterr().out
    assert "0 of 1 videos are bad (0.00%)" in text
    # What the other split mentions is not called unreferenced.
    assert "other.mp4" not in text
    assert "unmentioned.mp4" in text


def test_a_split_that_cannot_be_read_is_told_beside_the_others(run_here, capsys):
    assert run_here(threshold=1.0, galleries={"test": "none.csv"}) == 1
    text = capsys.readouterr().out
    assert "- test: " in text
    assert "none.csv: got no such file" in text
    assert "1 of 3 videos are bad" in text
    assert "unreferenced" not in text


def test_an_interrupted_check_says_so_and_writes_nothing(run_here, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "check", interrupt)
    assert run_here(out=str(tmp_path / "out")) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_has_its_time(run_here, capsys):
    assert run_here(video_timeout=1e-9) == 1
    assert capsys.readouterr().out.count("no data for 1e-09 s") == 3


def test_a_work_folder_is_asked_for_where_the_data_is_in_it(run_here, capsys):
    with pytest.raises(SystemExit):
        run_here(videos="{workdir}/videos")
    assert "--workdir is missing" in capsys.readouterr().err


def test_an_embedded_world_is_rendered_first(run_here, tmp_path, capsys):
    world = {"num_train": 3, "num_val": 0, "num_test": 2, "num_twin_groups": 0, "image_size": 32}
    folder = str(tmp_path / "world")
    assert run_here(render="shapes", world=world, annotations=folder, videos=f"{folder}/videos") == 0
    assert "0 of 5 videos are bad" in capsys.readouterr().out


def test_unusual_files_and_unnamed_splits_are_noted(folder, tmp_path):
    varying = write(tmp_path / "varying.mkv", Kind(".mkv", "libx264", "aac"), [0.0, 0.1, 0.2, 0.9, 1.0, 1.7])
    split = Split("train", (Record("a text", "varying", varying),), (Note("a: table.csv", "3 of split 'Train'"),))
    findings = _check([split, _split(folder, "test", ("good.mp4", ""))])
    (unnamed, unusual) = findings.problems
    assert (unnamed.kind, unnamed.subject, unnamed.reason) == ("unnamed", "a: table.csv", "3 of split 'Train'")
    assert (unusual.kind, unusual.subject, list(unusual.splits)) == ("unusual", str(varying), ["train"])
    assert unusual.reason.startswith("its frame rate varies")
    assert (findings.num_bad, findings.is_acceptable(0.0)) == (0, True)
    files = json.loads(findings.json())["files"]
    assert set(files) == {str(varying), str(folder / "good.mp4")}
    facts = files[str(varying)]
    assert (facts["frames"], facts["variable"], facts["codec"]) == (6, True, "h264")
    assert files[str(folder / "good.mp4")]["stated_rate"] == 8.0
