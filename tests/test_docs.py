"""The documentation against the code: snippets run, links lead somewhere, and what is named exists."""

import ast
import dataclasses
import importlib
import pathlib
import re
from unittest import mock

import pytest
from ml_collections import ConfigDict

from hbi_jax.config import default_config
from hbi_jax.data.datasets import GALLERIES, LOADERS
from hbi_jax.data.shapes import WorldConfig
from hbi_jax.tasks.registry import TASKS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "launch/README.md", *(ROOT / "docs").glob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
SNIPPET = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUR_FOLDERS = "hbi_jax|configs|tests|launch|docs|benchmarks|colab"


def _fields(config: ConfigDict, prefix: str = "config") -> set[str]:
    names = {prefix}
    for name in config:
        section = config.get_ref(name).get()
        names |= _fields(section, f"{prefix}.{name}") if isinstance(section, ConfigDict) else {f"{prefix}.{name}"}
    return names


def _exists(dotted: str) -> bool:
    """Whether a name such as hbi_jax.losses.kl_divergence is a module, or something in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def test_the_pages_are_there():
    wanted = ("architecture", "banzhaf", "data", "differences", "equations", "extending", "shapes", "training")
    assert {"README.md", "launch/README.md", *(f"docs/{name}.md" for name in wanted)} <= set(IDS)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_snippets_run(page, tmp_path, monkeypatch):
    """Those of one page one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "snippet"}
    # A page may register data sets and tasks of its own.
    with mock.patch.dict(LOADERS), mock.patch.dict(GALLERIES), mock.patch.dict(TASKS):
        for snippet in SNIPPET.findall(page.read_text()):
            exec(compile(snippet, str(page), "exec"), names)


def test_there_are_snippets_to_run():
    counts = {name: len(SNIPPET.findall(page.read_text())) for name, page in zip(IDS, PAGES, strict=True)}
    assert counts["README.md"] >= 1
    assert counts["docs/data.md"] == 3
    assert counts["docs/extending.md"] == 7


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_other_python_blocks_are_python(page):
    for language, block in re.findall(r"^```(python[^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        assert language in ("python", "python run"), language
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    missing = [
        link
        for link in links
        if not link.startswith(("http://", "https://", "#")) and not (page.parent / link.split("#")[0]).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_paths_exist(page):
    """Every `hbi_jax/...`, `tests/...` and so on between backticks."""
    paths = re.findall(rf"`((?:{OUR_FOLDERS})/[\w./-]*)", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_config_fields_exist(page):
    known = {
        *_fields(default_config()),
        *(f"config.data.world.{field.name}" for field in dataclasses.fields(WorldConfig)),
    }
    found = re.findall(r"(?<![\w/.])-{0,2}(config(?:\.[a-z]\w*)+)", page.read_text())
    assert [name for name in found if name not in known and not name.endswith((".py", ".json"))] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_names_exist(page):
    """Every `hbi_jax.something` between backticks."""
    names = re.findall(r"`(hbi_jax(?:\.\w+)+)", page.read_text())
    assert [name for name in names if not _exists(name)] == []


def _make_targets(text: str) -> set[str]:
    """What a page says to make: at the start of a line or of a piece of code, with or without variables."""
    return set(re.findall(r"(?:^ *|`)make (?:[A-Z]+=\S+ )*([a-z-]+)", text, re.MULTILINE))


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name: _make_targets(page.read_text()) for name, page in zip(IDS, PAGES, strict=True)}
    assert {name: found - targets for name, found in named.items() if found - targets} == {}
    assert {"test", "test-all", "test-extras", "test-faults", "test-here", "smoke"} <= named["docs/install.md"]
    assert _make_targets("Then `make a`, and\n    make PYTHON=python3 b-c  # make d") == {"a", "b-c"}


def test_every_equation_of_the_code_is_in_the_table():
    """What a docstring says to be of an equation stands in docs/equations.md."""
    table = (ROOT / "docs/equations.md").read_text()
    rows = re.findall(r"^\| ([\d, to]+) \|", table, re.MULTILINE)
    listed = set()
    for row in rows:
        numbers = [int(number) for number in re.findall(r"\d+", row)]
        listed |= set(range(numbers[0], numbers[-1] + 1)) if "to" in row else set(numbers)
    named = set()
    for path in (ROOT / "hbi_jax").rglob("*.py"):
        for found in re.findall(r"Eq\. (\d+)(?:(?: and | to |, )(\d+))?", path.read_text()):
            named |= {int(number) for number in found if number}
    assert listed == set(range(1, 17))
    assert named <= listed
    assert {1, 8, 9, 12, 13, 14, 15, 16} <= named
