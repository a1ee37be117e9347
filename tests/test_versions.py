"""What is promised about versions of Python is what CI runs, wherever it is promised."""

import importlib.metadata
import json
import pathlib
import re
import runpy
import tomllib
import unittest.mock

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = pathlib.Path(__file__).parents[1]
SUPPORTED = runpy.run_path(str(ROOT / "launch/environment.py"))["SUPPORTED"]
OTHERS = ("3.9", "3.10", "3.14", "3.15")
# Where the versions that were run are listed, and nowhere may any other be promised.
PAGES = (
    ROOT / "README.md",
    ROOT / "docs/install.md",
    ROOT / "launch/README.md",
    *sorted((ROOT / "launch").glob("*.sh")),
    *sorted((ROOT / "colab").glob("*.ipynb")),
)
# Sentences that say what is refused.
REFUSED = re.compile(r"\brefuse|\brejected\b|\bolder than\b|\bnot run\b", re.IGNORECASE)


def _pins() -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def _setup() -> dict:
    """What setup.py passes to setuptools."""
    with unittest.mock.patch.object(setuptools, "setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def _promised(text: str) -> list[str]:
    """Versions of Python that a text speaks of, but for sentences that say what is refused."""
    sentences = re.split(r"(?<=[.!?:])\s|\n\s*\n|\|\n", text)
    kept = [sentence for sentence in sentences if not REFUSED.search(sentence)]
    about = [match for sentence in kept for match in re.findall(r"(?is)python.{0,60}", sentence)]
    return [version for text in about for version in re.findall(r"\b3\.\d+(?=[^\d.]|\.\d|\.\s|\.?$)", text)]


def test_ci_runs_every_supported_version():
    run = (ROOT / ".ci/run").read_text()
    assert [line for line in run.splitlines() if line.startswith("make")] == ["make lint", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    target = re.search(r"^test: test-here.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert "launch/pythons.py smoke smoke.stamp" in target[1]
    assert list(SUPPORTED) == sorted(SUPPORTED, key=lambda version: int(version.split(".")[1]))


def test_packaging_promises_what_ci_runs():
    setup = _setup()
    wanted = SpecifierSet(setup["python_requires"])
    assert all(f"{version}.0" in wanted and f"{version}.99" in wanted for version in SUPPORTED)
    assert not [version for version in OTHERS if f"{version}.5" in wanted]
    named = [line.rpartition(" ")[2] for line in setup["classifiers"] if "Python :: 3." in line]
    assert named == list(SUPPORTED)
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == "py" + SUPPORTED[0].replace(".", "")


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_package_has_one_line_for_each_version(version):
    fitting = [pin.name for pin in _pins() if pin.marker is None or pin.marker.evaluate({"python_version": version})]
    assert sorted(fitting) == sorted({pin.name for pin in _pins()})


def test_pins_speak_of_supported_versions_alone():
    for pin in _pins():
        for version in re.findall(r'python_version\W+"([\d.]+)"', str(pin.marker or "")):
            assert version in SUPPORTED, pin


def test_what_pip_installs_is_what_was_tested_or_newer():
    bounds = {requirement.name: requirement for requirement in map(Requirement, _setup()["install_requires"])}
    assert set(bounds) == {pin.name for pin in _pins()}
    for pin in _pins():
        assert bounds[pin.name].marker is None
        for specifier in pin.specifier:
            if specifier.operator in ("==", ">="):
                assert specifier.version in bounds[pin.name].specifier, pin


def test_accelerators_get_the_plugin_of_the_installed_jax():
    """JAX's own extras name the versions, so that an extra of ours has to name none."""
    extras = _setup()["extras_require"]
    assert (extras["cuda12"], extras["cuda13"], extras["tpu"]) == (["jax[cuda12]"], ["jax[cuda13]"], ["jax[tpu]"])
    assert extras["cuda"] in (extras["cuda12"], extras["cuda13"])
    assert extras["plan"] == extras["tpu"]
    version = importlib.metadata.version("jax")
    for extra, plugin in (("cuda12", "jax-cuda12-plugin"), ("cuda13", "jax-cuda13-plugin"), ("tpu", "jaxlib")):
        lines = [Requirement(line) for line in importlib.metadata.requires("jax") if "extra ==" in line]
        (chosen,) = [line for line in lines if line.name == plugin and line.marker.evaluate({"extra": extra})]
        assert [release for release in (version, "0.4.30", "99.0") if release in chosen.specifier] == [version]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_promise_what_ci_runs(page):
    text = page.read_text()
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    assert [version for version in _promised(text) if version not in SUPPORTED] == []
    assert not re.search(r"3\.\d+ or (newer|later)|3\.\d+\+", text)


def test_readme_and_install_name_all():
    for name in ("README.md", "docs/install.md"):
        assert set(SUPPORTED) <= set(_promised((ROOT / name).read_text())), name


@pytest.mark.parametrize("text", ["Python 3.10 will do.", "uv venv --python 3.14", "any of Python 3.11, 3.12 and 3.15"])
def test_a_promise_is_found(text):
    assert set(_promised(text)) - set(SUPPORTED)


@pytest.mark.parametrize("text", ["Python 3.14 is refused.", "Python 3.12.1 and 3.13", "python 3.11\n\nversion 3.10"])
def test_what_is_no_promise(text):
    assert not set(_promised(text)) - set(SUPPORTED)
