"""The wheel: what is in it, and that it works where it is installed, far from the checkout."""

import email
import email.policy
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import hbi_jax

ROOT = pathlib.Path(__file__).parents[1]
# What setup.py reads or packs, and what it must leave out.
TREE = ("hbi_jax", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "configs", "tests")
ASSETS = {"hbi_jax/data/assets/LICENSE.md", "hbi_jax/data/assets/bpe_simple_vocab_16e6.txt.gz"}


def _run(*command: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _pip(*arguments: str | pathlib.Path, cwd: pathlib.Path) -> None:
    done = _run(
        sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--disable-pip-version-check", cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network from a copy, so that nothing of the building is left in the checkout."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for path in (*(ROOT / name for name in TREE), *ROOT.glob("requirements*.txt")):
        assert path.exists(), f"{path.name} is missing: setup.py needs it"
        if path.is_dir():
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tree)
    _pip("wheel", "--no-build-isolation", "--wheel-dir", out, tree, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder that holds the package and nothing else; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    _pip("install", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hbi_jax").rglob("*.py")}
    about = {file for file in files if file.startswith(f"hbi_jax-{hbi_jax.__version__}.dist-info/")}
    assert files - about == modules | ASSETS
    assert any(pathlib.PurePath(file).name == "LICENSE" for file in about)


def test_the_wheel_says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    about = f"hbi_jax-{hbi_jax.__version__}.dist-info"
    metadata = email.message_from_bytes(archive.read(f"{about}/METADATA"), policy=email.policy.default)
    assert metadata["Version"] == hbi_jax.__version__
    assert metadata["License-Expression"] or metadata["License"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    wanted = metadata.get_all("Requires-Dist")
    assert any(line.startswith("optax") for line in wanted)
    assert {"cuda", "tpu", "caption", "dev"} == set(metadata.get_all("Provides-Extra"))
    assert "hbi-jax = hbi_jax.main:run" in archive.read(f"{about}/entry_points.txt").decode()


def test_it_works_where_it_is_installed(installed, tmp_path):
    code = f"""
import pathlib, sys
sys.path.insert(0, {str(installed)!r})
import hbi_jax
assert pathlib.Path(hbi_jax.__file__).parent == pathlib.Path({str(installed / "hbi_jax")!r}), hbi_jax.__file__
from hbi_jax import banzhaf, build, config, experiment
from hbi_jax.data.text import Tokenizer
print(Tokenizer(6).encode(["a red circle"])[0][0].tolist(), config.default_config().name)
"""
    done = _run(sys.executable, "-I", "-c", code, cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[49406, 320, 736, 7117, 49407, 0] HBI"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("-m", "hbi_jax.main"), ("bin/hbi-jax",)])
def test_the_command_works_where_it_is_installed(installed, tmp_path, command):
    command = [str(installed / part) if part.startswith("bin/") else part for part in command]
    done = _run(sys.executable, *command, "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "--workdir" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    wrong = _run(sys.executable, *command, "--workdir=runs", cwd=tmp_path, PYTHONPATH=str(installed))
    assert (wrong.returncode, wrong.stderr.split(";")[0]) == (1, "error: --config is missing")
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_world_works_where_it_is_installed(installed, tmp_path):
    counts = ("--num_train=1", "--num_val=0", "--num_test=1", "--num_twin_groups=0", "--num_workers=2")
    done = _run(
        *(sys.executable, "-m", "hbi_jax.data.shapes", "generate", "world", *counts),
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "world" / "videos").glob("*.mp4"))) == 2
