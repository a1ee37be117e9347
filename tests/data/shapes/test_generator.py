import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes import files, generator, manifest, worker
from hbi_jax.data.shapes.__main__ import main

SMALL = shapes.WorldConfig(num_train=2, num_val=1, num_test=3, num_twin_groups=0)
ROOT = pathlib.Path(__file__).parents[3]


def _tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _generate(folder, config=SMALL, num_workers=1):
    return shapes.generate(folder, config, num_workers=num_workers, show_progress=False)


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "nested" / "world"
    summary = _generate(folder)
    assert (summary.num_videos, summary.num_rendered, summary.already_there) == (6, 6, False)
    return folder


@pytest.fixture(scope="module")
def small_tree(small_world):
    return _tree(small_world)


def test_two_processes_make_the_same_bytes_as_one(small_tree, tmp_path):
    _generate(tmp_path, num_workers=2)
    assert _tree(tmp_path) == small_tree
    assert len(small_tree) == 6 + 11 + 1  # videos, annotations, manifest


def test_a_second_call_does_nothing(small_world, small_tree):
    before = {p: p.stat().st_mtime_ns for p in small_world.rglob("*")}
    summary = _generate(small_world)
    assert (summary.num_rendered, summary.already_there) == (0, True)
    assert {p: p.stat().st_mtime_ns for p in small_world.rglob("*")} == before


def test_it_goes_on_where_it_was_interrupted(small_tree, tmp_path, monkeypatch):
    calls = []
    real = files.write_atomically

    def stop_at_third_video(path, content):
        calls.append(path.name)
        if sum(name.endswith(".mp4") for name in calls) == 3:
            path.with_name(path.name + ".partial").write_bytes(content[:100])
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(worker, "write_atomically", stop_at_third_video)
    with pytest.raises(KeyboardInterrupt):
        _generate(tmp_path)
    monkeypatch.undo()
    assert json.loads((tmp_path / "manifest.json").read_text())["finished"] is False
    with pytest.raises(shapes.ShapesError, match="no finished world"):
        manifest.read_config(tmp_path)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "videos").glob("*.mp4")}
    assert len(kept) == 2
    assert _generate(tmp_path).num_rendered == 4
    assert _tree(tmp_path) == small_tree
    assert {name: (tmp_path / "videos" / name).stat().st_mtime_ns for name in kept} == kept


@pytest.mark.parametrize("number", range(1, 14, 2))
def test_it_goes_on_after_a_kill_at_any_write(small_tree, tmp_path, monkeypatch, number):
    writes = []

    def killed(path, content):
        writes.append(path)
        if len(writes) == number:
            raise KeyboardInterrupt
        files.write_atomically(path, content)

    monkeypatch.setattr(generator, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        _generate(tmp_path)
    monkeypatch.undo()
    _generate(tmp_path)
    assert _tree(tmp_path) == small_tree


def test_what_is_lost_is_put_back(small_tree, tmp_path):
    _generate(tmp_path)
    (tmp_path / "videos/video1.mp4").unlink()
    (tmp_path / "videos/video4.mp4").write_bytes(b"")  # as after a power failure
    (tmp_path / "ground_truth.jsonl").unlink()
    (tmp_path / "videos/video1.mp4.partial").write_bytes(b"half")
    summary = _generate(tmp_path)
    assert (summary.num_rendered, summary.already_there) == (2, False)
    assert _tree(tmp_path) == small_tree


def test_another_world_in_the_folder_is_refused(small_world, small_tree):
    other = shapes.WorldConfig(**{**vars(SMALL), "seed": 5, "fps": 10})
    with pytest.raises(shapes.ShapesError, match=r"fps: 8 there, 10 asked for; seed: 0 there, 5 asked for"):
        _generate(small_world, other)
    assert _tree(small_world) == small_tree


def test_other_data_in_the_folder_is_refused(tmp_path):
    (tmp_path / "MSRVTT_data.json").write_text("{}")
    with pytest.raises(shapes.ShapesError, match="moving shapes did not make it"):
        _generate(tmp_path)
    assert list(_tree(tmp_path)) == ["MSRVTT_data.json"]


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(shapes.ShapesError, match=r"manifest.json is damaged"):
        _generate(tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(shapes.ShapesError, match="cannot write"):
        _generate(tmp_path / "file" / "world")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_video_that_cannot_be_written_is_named(small_tree, tmp_path, num_workers):
    (tmp_path / "world/videos/video3.mp4").mkdir(parents=True)  # stops root as well
    (tmp_path / "world/manifest.json").write_bytes(manifest.manifest_bytes(SMALL, finished=False))
    with pytest.raises(shapes.ShapesError, match=r"cannot write .*video3.mp4: .*; make room .* is kept"):
        _generate(tmp_path / "world", num_workers=num_workers)
    assert not list((tmp_path / "world").rglob("*.partial"))
    (tmp_path / "world/videos/video3.mp4").rmdir()
    _generate(tmp_path / "world")
    assert _tree(tmp_path / "world") == small_tree


def test_no_space_is_told_and_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(shapes.ShapesError, match=r"cannot write .*: No space left on device; make room"):
        files.write_atomically(tmp_path / "a.mp4", b"bytes")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_told(tmp_path, monkeypatch):
    real = subprocess.Popen

    def killed(*arguments, **options):
        process = real(*arguments, **options)
        process.send_signal(signal.SIGKILL)
        return process

    monkeypatch.setattr(subprocess, "Popen", killed)
    with pytest.raises(shapes.ShapesError, match=r"killed by signal 9.*is kept"):
        _generate(tmp_path, num_workers=2)


def test_two_calls_at_once_make_one_world(small_tree, tmp_path):
    summaries = []
    threads = [threading.Thread(target=lambda: summaries.append(_generate(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(summary.num_rendered for summary in summaries) == [0, 6]
    assert _tree(tmp_path) == small_tree


def test_progress_goes_to_stderr(tmp_path, capsys):
    shapes.generate(tmp_path, SMALL, num_workers=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("render videos 6/6 100.0%  in ")
    (tmp_path / "videos/video2.mp4").unlink()
    shapes.generate(tmp_path, SMALL, num_workers=1)
    assert capsys.readouterr().err.splitlines()[-1].startswith("render missing videos 1/1 100.0%  in ")
    shapes.generate(tmp_path, SMALL, num_workers=1)
    assert capsys.readouterr().err == ""


def test_num_workers_is_checked(tmp_path):
    with pytest.raises(shapes.ShapesError, match="num_workers=0"):
        _generate(tmp_path, num_workers=0)


def test_the_commands(tmp_path, capsys, monkeypatch):
    world, sheet = str(tmp_path / "w"), str(tmp_path / "sheet.png")
    flags = ["--num_train=1", "--num_val=0", "--num_test=2", "--num_twin_groups=0", "--num_workers=1"]
    assert main(["generate", world, *flags]) == 0
    assert "3 videos (3 rendered now)" in capsys.readouterr().out
    assert main(["preview", world, "--out", sheet, "--num_videos=2"]) == 0
    assert "saved" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["preview", world, "--out=~/other.png", "--num_videos=2"]) == 0
    assert (tmp_path / "other.png").is_file()
    capsys.readouterr()
    assert main(["generate", world, "--num_train=2"]) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "share of videos with two events" in capsys.readouterr().out


def test_it_imports_no_jax():
    code = "import sys, hbi_jax.data.shapes; sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_world_of_before_a_setting_was_added_is_the_same_world(small_world, tmp_path):
    """It was made with what is now the default, and with no other value."""
    folder = shutil.copytree(small_world, tmp_path / "old")
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    del found["config"]["duplicate_share"], found["config"]["videos_per_scene"]
    path.write_text(json.dumps(found))
    assert _generate(folder).already_there
    with pytest.raises(shapes.ShapesError, match=r"duplicate_share: 0.0 there, 0.5 asked for"):
        _generate(folder, dataclasses.replace(SMALL, duplicate_share=0.5))
