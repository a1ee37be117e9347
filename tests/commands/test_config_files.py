"""Configurations by name: the same files from a checkout and, in test_package.py, where the package is installed."""

import pathlib

import pytest

from hbi_jax.commands import config_files
from hbi_jax.config import ConfigError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def test_every_file_has_a_name():
    assert config_files.names() == sorted(path.stem for path in CONFIGS.glob("*.py"))


def test_a_name_is_its_file_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files.locate("msrvtt") == str(CONFIGS / "msrvtt.py")
    assert config_files.locate("estimator:quickstart") == f"{CONFIGS / 'estimator.py'}:quickstart"
    own = tmp_path / "own.py"
    own.write_text("")
    assert config_files.locate("own.py:a:b") == "own.py:a:b"
    assert config_files.locate(str(own)) == str(own)


def test_a_file_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    """A shell leaves ~ after an equals sign as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "own.py"
    own.write_text('"""Mine."""\nimport ml_collections as m\ndef get_config(): return m.ConfigDict({"mine": True})')
    assert config_files.with_paths(["--config=~/own.py:a"]) == [f"--config={own}:a"]
    assert config_files.load("~/own.py").mine
    assert config_files.help_text(["--config=~/own.py"]) == f"--config=~/own.py is {own}:\n\nMine."
    (tmp_path / "a:b.py").write_text("")
    with pytest.raises(ConfigError, match="wanted a path without a colon"):
        config_files.locate("~/a:b.py")
    with pytest.raises(ConfigError, match="there is no file at that path"):
        config_files.locate("~nobody-of-this-name/own.py")


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ("quickstrt", "did you mean --config=quickstart?"),
        ("configs/quickstart.py", "did you mean --config=quickstart?"),
        ("nothing", "there is no file at that path"),
        ("", "there is no file at that path"),
        (".", "there is no file at that path"),
    ],
)
def test_what_is_neither_is_told(tmp_path, monkeypatch, config, remedy):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        config_files.locate(config)
    message = str(raised.value)
    assert message.startswith(f"--config={config}: wanted a configuration file or one of the names activitynet, ")
    assert message.endswith(remedy)


def test_a_path_with_a_colon_is_told(tmp_path):
    file = tmp_path / "a:b" / "own.py"
    file.parent.mkdir()
    file.write_text("")
    with pytest.raises(ConfigError, match=r"wanted a path without a colon, .*; rename or move the file"):
        config_files.locate(str(file))


def test_load_gives_fields_that_can_be_changed():
    config = config_files.load("quickstart")
    config.train.num_steps = 3
    assert (config.data.render, config.task) == ("shapes", "retrieval")
    assert config_files.load("quickstart").train.num_steps == 800
    assert config_files.load("estimator:quickstart").data.render == "shapes"
    assert config_files.load("estimator").data.render == ""


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--config=msrvtt", "--config.name=msrvtt"], ["--config={}", "--config.name=msrvtt"]),
        (["-config", "msrvtt", "msrvtt"], ["-config", "{}", "msrvtt"]),
        (["--workdir=msrvtt", "--config"], ["--workdir=msrvtt", "--config"]),
    ],
)
def test_only_the_flag_is_replaced(argv, wanted):
    assert config_files.with_paths(argv) == [part.format(CONFIGS / "msrvtt.py") for part in wanted]


def test_help():
    for argv in (["--config=estimator:quickstart"], ["--config", "estimator:quickstart", "--help"]):
        text = config_files.help_text(argv)
        assert text.startswith(
            f"--config=estimator:quickstart is {CONFIGS / 'estimator.py'}:\n\nPre-training of the Ban"
        )
        assert "Hardware: " in text
    lines = config_files.help_text(["--help"]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == config_files.names()
    assert all(line.endswith(".") for line in lines[1:])


def test_a_file_that_is_no_python_is_told(tmp_path):
    (tmp_path / "a.py").write_text("def (")
    with pytest.raises(ConfigError, match="is not a Python file"):
        config_files.help_text([f"--config={tmp_path / 'a.py'}"])
