"""Whole runs as processes, and the figures of their reports."""

import subprocess
import sys

import pytest

from hbi_jax.ablations.runs import chance, figures, run
from hbi_jax.tasks.retrieval.pointing import Pointed, tables

PYTHON = sys.executable


def metrics(first):
    direction = {"R@1": first, "R@5": 50.0, "R@10": 60.0, "R@50": 90.0, "MdR": 5.0, "MnR": 9.0}
    return {"t2v": direction, "v2t": {**direction, "R@1": first + 1}, "Rsum": 250.0}


def gallery(first, group_accuracy=None, group_chance=None):
    row = {"metrics": metrics(first), "group_accuracy": group_accuracy}
    second = {"metrics": metrics(first + 10), "group_accuracy": group_accuracy and group_accuracy + 10}
    return {"rows": [row, second], "chance": metrics(0.5), "group_chance": group_chance}


def test_figures_are_those_of_the_first_gallery_and_of_the_first_with_groups():
    report = {"galleries": [gallery(40.0), gallery(70.0, 55.0, 25.0)], "tables": []}
    assert figures(report) == {
        "t2v R@1": 40.0,
        "t2v R@5": 50.0,
        "t2v R@10": 60.0,
        "t2v MnR": 9.0,
        "v2t R@1": 41.0,
        "Rsum": 250.0,
        "in-group accuracy": 55.0,
    }
    assert figures(report, row=1)["in-group accuracy"] == 65.0
    assert chance(report)["v2t R@1"] == 1.5
    assert chance(report)["in-group accuracy"] == 25.0
    ungrouped = {"galleries": [gallery(40.0)], "tables": []}
    assert "in-group accuracy" not in figures(ungrouped) | chance(ungrouped)


def test_where_words_point_is_a_figure_of_the_runs_own_row():

    words = [Pointed("color", video, 0.75, 0.5, 0.9) for video in range(2)]
    made = tables("pointing, gallery 'test'", {"interaction": words, "similarity": words})
    plain = [
        {
            "name": table.name,
            "columns": [column.name for column in table.columns],
            "rows": [row[:2] for row in table.rows],
        }
        for table in made
    ]
    report = {"galleries": [gallery(40.0)], "tables": plain}
    inside = {"color inside, %": 75.0, "all words inside, %": 75.0}
    assert figures(report) == figures({**report, "tables": []}) | inside
    assert figures(report, row=1).keys() == figures({**report, "tables": []}).keys()
    assert chance(report)["color inside, %"] == 50.0


def test_figures_of_another_task_are_those_of_its_first_table():
    table = {"columns": ["all, %", "how many, %", "what, %"], "rows": [["own", [50.0, None, 30.0]]]}
    report = {"galleries": [], "tables": [table]}
    assert figures(report) == {"all, %": 50.0, "what, %": 30.0}
    assert chance(report) == {}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program in the place of python: says something, fails where it is told to, else leaves a report."""
    path = tmp_path / "program"
    path.write_text(
        f"#!{PYTHON}\nimport json, pathlib, sys\nprint('said', *sys.argv[1:3], flush=True)\n"
        "folder = next(a for a in sys.argv if a.startswith('--workdir=')).split('=')[1]\n"
        "if '--config.fail=1' in sys.argv: sys.exit(7)\n"
        "(pathlib.Path(folder) / 'report.json').write_text(json.dumps({'flags': sys.argv[3:]}))\n"
    )
    path.chmod(0o755)
    monkeypatch.setattr("hbi_jax.ablations.runs.sys.executable", str(path))


def test_a_run_is_a_call_of_main_and_is_made_once(program, tmp_path, capfd):
    flags = ["--config=configs/quickstart.py", f"--workdir={tmp_path}", "--config.seed=1"]
    assert run(tmp_path, "configs/quickstart.py", "--config.seed=1") == {"flags": flags}
    assert capfd.readouterr().out == "said -m hbi_jax.main\n"
    assert run(tmp_path, "configs/quickstart.py", "--config.seed=1") == {"flags": flags}
    assert capfd.readouterr().out == ""


def test_a_run_that_fails_says_so_and_keeps_what_it_printed(program, tmp_path, capfd):
    log = tmp_path / "log.txt"
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError) as error:
            run(tmp_path, "configs/quickstart.py", "--config.fail=1", log=log)
        assert error.value.returncode == 7
    assert log.read_text() == 2 * "said -m hbi_jax.main\n"
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "report.json").exists()
