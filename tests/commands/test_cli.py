"""How a command that takes a configuration ends."""

import gc
import subprocess
import sys

import pytest
from absl import flags

from hbi_jax.commands import cli


@pytest.fixture
def run(monkeypatch):
    """Runs a function as a command without parsing a command line; returns its exit code."""
    monkeypatch.setattr(cli.app, "run", lambda main, flags_parser: main(["command"]))
    monkeypatch.setattr(cli, "start_logging", lambda verbose: None)
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", None)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    threshold = gc.get_threshold()

    def code_of(command):
        with pytest.raises(SystemExit) as ended:
            cli.run(command, __name__, "A command.")
        return ended.value.code

    yield code_of
    gc.set_threshold(*threshold)


def _raise(error):
    raise error


def test_an_interruption_is_one_line(run, capsys):
    assert run(lambda: _raise(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_error_of_the_user_is_one_message(run, capsys):
    assert run(lambda: _raise(ValueError("field: got a, wanted b"))) == 1
    assert capsys.readouterr().err == "error: field: got a, wanted b\n(--traceback shows where this comes from)\n"


def test_an_error_of_ours_is_not_hidden(run):
    with pytest.raises(RuntimeError, match="a defect"):
        cli.run(lambda: _raise(RuntimeError("a defect")), __name__, "A command.")


@pytest.mark.parametrize(
    "module", ["main", "ablate", "data", "plan", "ask", "caption", "search", "pretrained", "data.shapes"]
)
def test_help_is_no_failure(module):
    command = [sys.executable, "-m", f"hbi_jax.{module}"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"hbi_jax.{module}" in done.stdout
    # A wrong flag is one.
    wrong = subprocess.run([*command, "--no_such_flag", "a"], capture_output=True, text=True, check=False)
    assert wrong.returncode in (1, 2)


def test_the_code_of_the_command_is_that_of_the_program(run):
    assert run(lambda: None) is None
    assert run(lambda: 3) == 3
