"""Environments: which Pythons and machines are refused, in which words, and what is run on the others."""

import json
import os
import pathlib
import re
import runpy
import shlex
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


def _make(folder, *arguments):
    """Makes an environment with what `pip install` would take; pip's --help installs nothing."""
    command = [sys.executable, str(SCRIPT), str(folder), *(arguments or ["--help"])]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("files", [["notes.txt"], ["bin/run", "lib/data"], ["pyvenv.cfg", "bin/run", "notes.txt"]])
def test_a_folder_with_other_files_stays_as_it_is(tmp_path, files):
    folder = tmp_path / "work"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    done = _make(folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: wanted a new folder; {folder} holds other files, such as ")
    assert "make VENV=NEW_FOLDER" in done.stderr
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(files)


def test_a_working_environment_without_pip_gets_pip_and_keeps_the_rest(tmp_path):
    """As uv makes them, or an interrupted venv."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (tmp_path / "venv/mine").write_text("mine")
    done = _make(tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "venv/mine").read_text() == "mine"
    assert list((tmp_path / "venv/bin").glob("pip3*"))


def test_an_environment_that_does_not_run_is_made_anew(tmp_path):
    """As after an update of the system's Python. An empty folder is taken as well."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(tmp_path / "gone")
    for name in ("pyvenv.cfg", "run.stamp", "bin/old"):
        (folder / name).write_text("")
    (tmp_path / "empty").mkdir()
    for place in (folder, tmp_path / "empty"):
        done = _make(place)
        assert done.returncode == 0, done.stderr
        assert (place / "bin/python").exists()
    assert not (folder / "bin/old").exists()


# Writes down how it was called; what make asks it to run itself, it runs.
STUB = """#!{python}
import json, os, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "-c":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


def _recorded(tmp_path, *arguments, **variables):
    """Runs make with recording programs in place of Pythons, in a folder with a blank; returns its output and calls."""
    folder, calls = tmp_path / "a b", tmp_path / "calls.jsonl"
    programs = [folder / "python", tmp_path / "venv/bin/python"]
    for program in programs:
        program.parent.mkdir(parents=True)
        program.write_text(STUB.format(python=sys.executable, calls=str(calls)))
        program.chmod(0o755)
    command = ["make", "--no-print-directory", f"VENV={programs[1].parents[1]}", "PYTHON=~/python", *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, [json.loads(line) for line in calls.read_text().splitlines()]


def test_a_path_may_hold_a_blank(tmp_path):
    """That of a Python and of the work folder, also in what may be tried next; ~ is the home folder."""
    output, calls = _recorded(tmp_path, "quickstart", "WORKDIR=runs/my run")
    assert calls[-1] == ["-m", "hbi_jax.main", "--config=configs/quickstart.py", "--workdir=runs/my run"]
    _, index, _, captions = [shlex.split(line) for line in output.splitlines() if line.strip()][-4:]
    assert index[-2:] == ["--checkpoint=runs/my run", "runs/my run/data/videos"]
    assert captions[-1] == "--config.init=runs/my run"


@pytest.mark.parametrize("folder", ["my venv", ""])
def test_what_make_cannot_name_is_told(folder):
    done = subprocess.run(["make", f"VENV={folder}", "help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode
    assert f"VENV='{folder}': wanted one path without blanks; choose another folder" in done.stderr


def test_the_tests_of_extras_run_with_what_setup_py_names(tmp_path):
    """All tests that are skipped without an extra, and the packages alone: hbi_jax itself is that of the checkout."""
    _, calls = _recorded(tmp_path, "test-extras")
    (installed,) = [call for call in calls if call[0] == "launch/environment.py" and "-c" in call]
    assert installed[1:4] == [str(tmp_path / "venv"), "-c", "requirements.txt"]
    assert [re.match(r"[\w\[\]]+", package)[0] for package in installed[4:]] == ["gradio", "jax[tpu]", "lancedb"]
    needed = re.compile(r"(?:find_spec|importorskip)\(\"(?:gradio|lancedb|libtpu)\"")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if needed.search(path.read_text())]
    assert calls[-1] == ["-m", "pytest", *sorted(str(path.relative_to(ROOT)) for path in files)]


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
