"""Runs a target of the Makefile on every supported Python but the one that runs this, each in its own environment.

    .venv/bin/python launch/pythons.py TARGET ENVIRONMENT

TARGET is made with each Python that is found on PATH or in pyenv, after ENVIRONMENT, the stamp of what it needs. What
was not run is named at the end. The exit code is 1 where something failed.
"""

import os
import pathlib
import subprocess
import sys
import time

import environment

ROOT = pathlib.Path(__file__).parents[1]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


# What the make that runs this was told is not for the others.
_OWN = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV")


def make(python: str, target: str, stderr: int | None = None) -> subprocess.CompletedProcess:
    """Runs make with an interpreter."""
    return subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={python}", target],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in _OWN},
        stderr=stderr,
        text=True,
        check=False,
    )


def run(version: str, target: str, stamp: str) -> tuple[bool, str]:
    """Returns whether nothing failed, and what to say of this version."""
    python = environment.find(version)
    if python is None:
        return True, f"NOT RUN: there is no python{version} on PATH and none in pyenv"
    begun = time.monotonic()
    made = make(python, f".venv-{version}/{stamp}", subprocess.PIPE)
    if made.returncode:
        reason = made.stderr.partition("\n")[0].removeprefix("error: ")
        if reason.startswith((environment.NO_INDEX, environment.NO_SPACE)):
            return True, f"NOT RUN: no environment; {reason}"
        sys.stderr.write(made.stderr)
        return False, f"FAILED: no environment; {reason}"
    ready = time.monotonic()
    good = make(python, target).returncode == 0
    seconds = f"{time.monotonic() - ready:.0f} s, and {ready - begun:.0f} s for the environment"
    return good, f"{'passed' if good else 'FAILED'}: make {target}, {seconds}"


def main(target: str, stamp: str) -> int:
    """Runs all; returns the exit code."""
    others = [version for version in environment.SUPPORTED if version != HERE]
    results = {}
    for version in others:
        print(f"\nPython {version}: make {target}", flush=True)
        results[version] = run(version, target, stamp)
    print(f"\nPython {HERE}: passed: make test-here")
    for version, (_, text) in results.items():
        print(f"Python {version}: {text}")
    return 0 if all(good for good, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
