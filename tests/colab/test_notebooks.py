"""The notebooks: valid, without results of old runs, and their cells run."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
TINY = {
    "world": {"num_train": 16, "num_val": 4, "num_test": 6, "num_twin_groups": 1},
    "train": {"num_steps": 2, "batch_size": 8, "log_every": 1, "eval_every": 2, "checkpoint_every": 2},
}


def _cells(name: str) -> dict[str, str]:
    """The code of each code cell by its id, without magics and shell commands."""
    cells = json.loads((ROOT / "colab" / name).read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    return {
        name: "\n".join(line for line in text.split("\n") if not line.lstrip().startswith(("%", "!")))
        for name, text in code.items()
    }


def _execute(code: str, names: dict) -> None:
    exec(compile(code, "notebook", "exec"), names)


def test_both_are_there():
    assert [path.name for path in NOTEBOOKS] == ["evaluate.ipynb", "quickstart.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_file_is_a_clean_notebook(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert isinstance(cell["metadata"], dict)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        else:
            assert cell["cell_type"] == "markdown"
            assert "outputs" not in cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_compiles(path):
    for name, code in _cells(path.name).items():
        compile(code, f"{path.name}, {name}", "exec")


def test_the_toy_game(capsys):
    names = {}
    _execute(_cells("quickstart.ipynb")["banzhaf"], names)
    interaction = np.asarray(names["interaction"])
    assert interaction.argmax(axis=1)[:2].tolist() == [0, 2]
    assert np.abs(interaction[2]).max() < 0.06 < interaction[:2].max(axis=1).min()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["dog", "runs", "the"]


@pytest.fixture
def shown(monkeypatch):
    """Stands in for IPython's display; what it was given is in the list."""
    display, shown = types.ModuleType("IPython.display"), []
    display.Markdown = display.Image = str
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


@pytest.mark.slow
def test_the_cells_run_one_after_the_other(tmp_path, monkeypatch, capsys, shown):
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell, code in _cells("quickstart.ipynb").items():
        _execute(code, names)
        if cell == "install":
            names["CHECKOUT"] = str(ROOT)
        if cell == "sizes":
            assert {key: set(fields) for key, fields in names["SIZES"].items()} == {
                key: set(fields) for key, fields in TINY.items()
            }
            names["SIZES"] = TINY
        if cell == "config":
            clip = names["config"].model.clip
            clip.vision_width = clip.text_width = clip.embed_features = 32
            clip.vision_layers = clip.text_layers = 1
    assert shown[0].startswith("# HBI, notebook: retrieval")
    assert "runs/notebook/pictures/training.png" in shown

    before = (tmp_path / "runs/notebook/report.json").read_text()
    capsys.readouterr()
    names = {}
    for code in _cells("evaluate.ipynb").values():
        _execute(code, names)
    report, again = json.loads(before), json.loads((tmp_path / "runs/notebook/report.json").read_text())
    assert again["galleries"] == report["galleries"]
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert all("described from video" in line and line.count("(") == 3 for line in lines)
