"""Work folders: where a path leads."""

import pathlib

from hbi_jax.data.dataset import Dataset
from hbi_jax.experiment import prepare
from hbi_jax.tasks.workdir import open_workdir
from tests.tiny_run import tiny_config


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert str(open_workdir("~/runs/a")) == str(tmp_path / "home" / "runs" / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_world_is_rendered_where_the_task_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rendered = []
    monkeypatch.setattr(Dataset, "render", lambda self: rendered.append(self.folder("videos")))
    monkeypatch.setattr("hbi_jax.experiment.make_task", lambda config, mesh, folder: folder)
    setup = prepare(tiny_config(pathlib.Path("{workdir}/data"), data__render="shapes"), "~/a")
    assert rendered == [tmp_path / "home" / "a" / "data" / "videos"]
    assert str(setup.task) == str(tmp_path / "home" / "a")
