"""The notebooks: valid, without results of old runs, and their cells run."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.tiny_run import SMALLEST

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# What the notebook lets its reader choose, as the tiny runs have it.
SIZES = {
    "world": {name: SMALLEST[f"data.world.{name}"] for name in ("num_train", "num_val", "num_test", "num_twin_groups")},
    "train": {
        name: SMALLEST[f"train.{name}"]
        for name in ("num_steps", "batch_size", "log_every", "eval_every", "checkpoint_every")
    },
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


def test_all_are_there():
    assert [path.name for path in NOTEBOOKS] == ["evaluate.ipynb", "quickstart.ipynb", "search.ipynb"]


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


# Stands in for IPython: what is displayed is written, a line each, to the file "shown".
DISPLAY = """
import json

Image = Markdown = HTML = str

def display(what):
    with open("shown", "a") as file:
        file.write(json.dumps(what) + "\\n")
"""
# What the test sets after a cell, so that the run is over in seconds.
NAMES = {key: set(fields) for key, fields in SIZES.items()}
CHANGES = {
    "install": f"CHECKOUT = {str(ROOT)!r}",
    "sizes": f"""
assert {{key: set(SIZES[key]) for key in SIZES}} == {NAMES!r}
SIZES = {SIZES!r}
""",
    "config": f"config.update_from_flattened_dict({SMALLEST!r})",
}


def _run(name: str, folder: pathlib.Path) -> str:
    """Runs the cells in a process of its own, as a notebook does; returns what they print."""
    cells = _cells(name).items()
    program = "\n".join(f"# {cell}\n{code}\n{CHANGES.get(cell, '')}" for cell, code in cells)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_cells_run_one_after_the_other(tmp_path):
    (tmp_path / "IPython").mkdir()
    (tmp_path / "IPython/__init__.py").touch()
    (tmp_path / "IPython/display.py").write_text(DISPLAY)
    workdir = tmp_path / "runs/notebook"

    _run("quickstart.ipynb", tmp_path)
    shown = [json.loads(line) for line in (tmp_path / "shown").read_text().splitlines()]
    assert shown[0].startswith("# HBI, notebook: retrieval")
    assert "runs/notebook/pictures/training.png" in shown

    report = json.loads((workdir / "report.json").read_text())
    lines = _run("evaluate.ipynb", tmp_path).splitlines()[-3:]
    again = json.loads((workdir / "report.json").read_text())
    assert again["galleries"] == report["galleries"]
    assert [galleries["videos"] for galleries in again["galleries"]] == [8, 8]
    assert all("described from video" in line and line.count("(") == 3 for line in lines)

    lines = _run("search.ipynb", tmp_path).splitlines()
    videos = len(list((workdir / "data/videos").iterdir()))
    assert lines[:2] == ["not on Colab: nothing to upload", f"{videos} videos, {videos} clips"]
    assert len(lines) == 2 + 5 + 3 + 3
    # The best moment is most like itself.
    assert lines[7].split()[1] == lines[2].split()[1]
    shown = [json.loads(line) for line in (tmp_path / "shown").read_text().splitlines()]
    assert shown[-1].count('<section class="card">') == 5
