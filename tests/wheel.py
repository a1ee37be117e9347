"""The wheel, built and installed without network, for the tests of what a user has who cloned nothing."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# What setup.py reads or packs, and what it must leave out.
TREE = ("hbi_jax", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "configs", "tests")


def run(*command: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs a program and keeps what it prints."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def build(tree: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Builds the wheel from a copy in `tree`, so that nothing of the building is left in the checkout."""
    for path in (*(ROOT / name for name in TREE), *ROOT.glob("requirements*.txt")):
        assert path.exists(), f"{path.name} is missing: setup.py needs it"
        if path.is_dir():
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tree)
    _pip("wheel", "--no-build-isolation", "--wheel-dir", out, tree, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def install(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts the package and nothing else into a folder; its dependencies are those of this environment."""
    _pip("install", "--target", folder, wheel, cwd=folder)


def _pip(*arguments: str | pathlib.Path, cwd: pathlib.Path) -> None:
    done = run(
        sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--disable-pip-version-check", cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
