"""The folder of the Space: its parts fit together, and its program serves what it indexed."""

import pathlib
import re
import runpy

from packaging.specifiers import SpecifierSet

import hbi_jax
from hbi_jax.search import serve

SPACE = pathlib.Path(__file__).parents[2] / "launch" / "space"
SETUP = SPACE.parents[1] / "setup.py"


def test_the_parts_fit_together():
    head = dict(re.findall(r"^(\w+): (.*)$", (SPACE / "README.md").read_text().split("---")[1], re.MULTILINE))
    assert (SPACE / head["app_file"]).is_file()
    assert f'"gradio=={head["sdk_version"]}"' in SETUP.read_text()
    wanted = re.search(r'python_requires="(.+)"', SETUP.read_text())[1]
    assert head["python_version"].strip('"') in SpecifierSet(wanted)
    assert f"hbi_jax-{hbi_jax.__version__}-py3-none-any.whl" in (SPACE / "requirements.txt").read_text()


def test_the_program_indexes_and_serves(monkeypatch, tmp_path, capsys):
    calls = []

    class Index:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            calls.append("closed")

        def add(self, videos, shown):
            calls.append(("add", videos, shown))
            return type("Summary", (), {"unreadable": {"a.mp4": "a.mp4: Invalid data"}})

    monkeypatch.setenv("VIDEOS", "my videos")
    monkeypatch.setattr(hbi_jax, "open_index", lambda folder, weights: calls.append((folder, weights)) or Index())
    monkeypatch.setattr(serve, "serve", lambda index, settings: calls.append(settings))
    runpy.run_path(SPACE / "app.py", run_name="__main__")
    settings = calls[2]
    assert calls == [("my.index", "weights"), ("add", "my videos", True), settings, "closed"]
    assert (settings.host, settings.upload_megabytes) == ("0.0.0.0", 50)
    assert capsys.readouterr().out == "unreadable: a.mp4: Invalid data\n"
