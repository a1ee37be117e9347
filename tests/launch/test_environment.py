"""Environments: which Pythons and machines are refused, in which words, and what is run on the others."""

import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch/environment.py"
environment = runpy.run_path(str(SCRIPT))
LINUX = {"version": "3.12.1", "bits": 64, "system": "Linux", "machine": "x86_64", "libc": "glibc2.35"}
PIP_OFFLINE = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Failed to establish a new "
    "connection')': /simple/jax/\nERROR: Could not find a version that satisfies the requirement jax (from versions: "
    "none)\nERROR: No matching distribution found for jax\n"
)


@pytest.mark.parametrize("version", environment["SUPPORTED"])
@pytest.mark.parametrize(
    "machine",
    [{}, {"machine": "aarch64", "libc": "glibc2.28"}, {"system": "Darwin", "machine": "arm64", "libc": ""}],
)
def test_what_will_do(version, machine):
    assert environment["unsuitable"](**LINUX | machine | {"version": f"{version}.7"}) is None


@pytest.mark.parametrize(
    ("differs", "wanted"),
    [
        ({"version": "3.10.13"}, "wanted Python 3.11, 3.12 or 3.13; this is 3.10.13 ("),
        ({"version": "3.14.0"}, "wanted Python 3.11, 3.12 or 3.13; this is 3.14.0 ("),
        ({"version": "3.1.1"}, "wanted Python 3.11, 3.12 or 3.13; this is 3.1.1 ("),
        ({"bits": 32}, "wanted a 64-bit Python, which JAX needs; "),
        ({"libc": ""}, "wanted a Linux with glibc 2.28 or newer, such as Debian's or Ubuntu's; JAX has no"),
        ({"libc": "glibc2.17"}, "wanted a Linux with glibc 2.28 or newer, which the packages are made for; this one "),
        ({"system": "Darwin", "libc": ""}, "wanted a Mac with Apple silicon"),
        ({"system": "Windows", "machine": "AMD64", "libc": ""}, "wanted Linux or macOS; on Windows use WSL 2"),
    ],
)
def test_what_will_not(differs, wanted):
    assert environment["unsuitable"](**LINUX | differs).startswith(wanted)


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (PIP_OFFLINE, "wanted a package index, but pip reaches none"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "wanted 3 GB of"),
        ("ERROR: No matching distribution found for av==19.0.2\n", "wanted av==19.0.2, which the index does not have"),
        (
            "  error: command 'gcc' failed\n  ERROR: Failed building wheel for av\n",
            "wanted a compiler for av, of which",
        ),
        ("ERROR: ResolutionImpossible\n", "wanted pip to install what is listed, but it failed"),
    ],
)
def test_what_pip_says_is_put_in_a_line(output, wanted):
    line = environment["explained"](output)
    assert line.startswith(wanted)
    assert "\n" not in line


def test_arguments_are_asked_for():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(",")[0]) == (2, "Makes a virtual environment")


def test_an_interpreter_that_does_not_run_is_not_found(tmp_path, monkeypatch):
    """As pyenv's placeholders on PATH; the newest of pyenv's own is taken then."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert environment["find"]("3.12") is None
    programs = {
        "bin/python3.12": "exit 127",
        "versions/3.12.9/bin/python": "echo 3.12",
        "versions/3.12.10/bin/python": "echo 3.12",
        "versions/3.13.0/bin/python": "echo 3.13",
    }
    for name, line in programs.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    assert environment["find"]("3.12") == str(tmp_path / "versions/3.12.10/bin/python")
    assert environment["find"]("3.13") == str(tmp_path / "versions/3.13.0/bin/python")
    (tmp_path / "bin/python3.12").write_text("#!/bin/sh\necho 3.12\n")
    assert environment["find"]("3.12") == str(tmp_path / "bin/python3.12")


def test_the_first_line_of_make_says_what_is_wanted(tmp_path):
    """Here of an offline pip, and of a Python that is not there."""
    offline = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = ["make", "--no-print-directory", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}", "quickstart"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **offline}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode
    assert done.stderr.startswith("error: wanted a package index, but pip reaches none; "), done.stderr
    assert done.stdout == ""
    command = ["make", "--no-print-directory", "PYTHON=python3.99", "quickstart"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: wanted a Python; python3.99 is not on PATH")


@pytest.fixture
def other(tmp_path):
    """Runs launch/pythons.py beside a Makefile and with one other Python of our making; returns what it prints."""
    versions = [
        version for version in environment["SUPPORTED"] if f"{sys.version_info[0]}.{sys.version_info[1]}" != version
    ]
    shutil.copytree(ROOT / "launch", tmp_path / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "echo", "true", "false"):
        (programs / name).symlink_to(shutil.which(name))
    program = programs / f"python{versions[0]}"
    program.write_text(f"#!/bin/sh\necho {versions[0]}\n")
    program.chmod(0o755)

    def run(stamp: str, check: str) -> tuple[int, str, str]:
        makefile = f".venv-{versions[0]}/stamp:\n\t@{stamp}\ncheck:\n\t@echo $(PYTHON); {check}\n"
        (tmp_path / "Makefile").write_text(makefile)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "launch/pythons.py"), "check", "stamp"],
            env={**os.environ, "PATH": str(programs), "PYENV_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        here, first, second = done.stdout.strip().splitlines()[-3:]
        assert here.endswith("passed: make test-here")
        assert second == f"Python {versions[1]}: NOT RUN: there is no python{versions[1]} on PATH and none in pyenv"
        assert (str(program) in done.stdout) == (stamp == "true")
        return done.returncode, first, done.stderr

    return run


def test_what_was_run_and_what_was_not_is_said_at_the_end(other):
    code, line, _ = other("true", "true")
    assert (code, ": passed: make check, " in line) == (0, True)
    code, line, _ = other("true", "false")
    assert (code, ": FAILED: make check, " in line) == (1, True)
    # Without a network nothing can be said of a Python; that a package is missing can.
    code, line, _ = other("echo 'error: wanted a package index, but' >&2; false", "true")
    assert (code, line.split(": ", 1)[1]) == (0, "NOT RUN: no environment; wanted a package index, but")
    code, line, errors = other("echo 'error: wanted av==19' >&2; echo more >&2; false", "true")
    assert (code, line.split(": ", 1)[1]) == (1, "FAILED: no environment; wanted av==19")
    assert errors.startswith("error: wanted av==19\nmore\n")
