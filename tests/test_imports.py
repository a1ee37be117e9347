"""Who may import whom: every import of the package against one table, and what importing it loads.

docs/architecture.md explains the order. A new file that belongs to no room, or a new dependency, fails here first:
the table is where it is allowed.
"""

import ast
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]


class Room(NamedTuple):
    """The other rooms and the third-party packages that the files of a room may import."""

    rooms: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()


def _room(*rooms: str, packages: frozenset[str] = frozenset()) -> Room:
    return Room(frozenset(rooms), packages)


ARRAYS = frozenset({"jax", "flax", "optax", "numpy", "jaxtyping"})
HOST_ARRAYS = frozenset({"numpy", "jaxtyping"})
# Rooms that need nothing but the packages of ARRAYS, in themselves and in what they import.
BASE = ("choices", "fields", "memory", "types")
MATHS = (*BASE, "banzhaf", "clustering", "losses", "metrics", "parallel")
# The declarations of fields load no array package, so that commands explain and refuse them at once.
EXTRAS = {"pycocoevalcap", "lancedb", "pyarrow", "scenedetect", "gradio", "fastapi", "starlette", "uvicorn"}
CONFIGS = ("models.config", "data.config", "parallel.config", "train.config")
TASKS = ("retrieval", "answers", "captions", "estimator")
CORE = (*MATHS, "models", "models.config", "train", "train.config", "tasks.configs", "tasks.objectives")

# By module name without `hbi_jax.`; the longest name that fits a file is its room. A room may import itself.
# "train" is what of that folder is core: alignment, state, step, optimizer, teacher, preemption.
ROOMS = {
    "version": _room(),
    "choices": _room(),
    "fields": _room(),
    "files": _room(),
    "memory": _room(),
    "types": _room(packages=HOST_ARRAYS),
    "commands.progress": _room(),
    "commands": _room("fields", packages=frozenset({"absl", "ml_collections"})),
    "banzhaf": _room(*BASE, "parallel", packages=ARRAYS),
    "clustering": _room(*BASE, packages=ARRAYS),
    "losses": _room(*BASE, packages=ARRAYS),
    "metrics": _room(*BASE, packages=HOST_ARRAYS),
    "parallel": _room(*BASE, packages=ARRAYS),
    "parallel.config": _room("fields"),
    "models": _room(*MATHS, "models.config", packages=ARRAYS),
    "models.config": _room("choices", "fields"),
    "train": _room(*MATHS, "models", "train.config", packages=ARRAYS),
    "train.config": _room("choices", "fields"),
    "train.checkpoint": _room("parallel", "train", packages=ARRAYS | {"orbax", "etils"}),
    "train.writers": _room("commands.progress", packages=HOST_ARRAYS | {"tensorboardX"}),
    "train.loop": _room("train", "train.config", "train.checkpoint", "train.writers", packages=ARRAYS),
    "report": _room("files", "types", packages=ARRAYS | {"matplotlib"}),
    "data": _room(
        "version",
        *BASE,
        "commands.progress",
        "data.config",
        "data.shapes",
        packages=HOST_ARRAYS
        | {"absl", "array_record", "av", "ftfy", "grain", "PIL", "tensorflow_datasets", "tokenizers"},
    ),
    "data.config": _room("fields"),
    "data.shapes": _room("commands.progress", packages=HOST_ARRAYS | {"av", "PIL"}),
    "data.__main__": _room("fields", "commands", "data", "data.config", packages=frozenset({"absl"})),
    "pretrained": _room(
        *BASE,
        "banzhaf",
        "models",
        "models.config",
        "commands.progress",
        packages=ARRAYS | {"safetensors", "huggingface_hub"},
    ),
    "data.shapes.pretrain": _room(
        "fields",
        "types",
        "losses",
        "models",
        "models.config",
        "train",
        "train.config",
        "pretrained",
        "data",
        "data.shapes",
        "commands.progress",
        packages=ARRAYS,
    ),
    # What every task needs of the others, as the configuration of a run composes all of them.
    "tasks.config": _room("fields", *CONFIGS, "tasks.configs"),
    # These two stand for modules of each task: hbi_jax/tasks/*/config.py, and objective.py with batch.py.
    "tasks.configs": _room("choices", "fields", "models.config", "train.config"),
    "tasks.objectives": _room(*MATHS, "models", "train", "train.config", "tasks.configs", packages=ARRAYS),
    "tasks.captions.metrics": _room(packages=frozenset({"pycocoevalcap"})),
}
# Commands, which no room imports.
PROGRAMS = {"data.__main__", "data.shapes.pretrain"}
ROOMS["tasks"] = _room(
    *(set(ROOMS) - PROGRAMS - {"version", "commands"}), packages=ARRAYS | {"etils", "matplotlib", "sklearn"}
)
ROOMS["search.config"] = _room("fields")
ROOMS["search"] = _room(
    *(set(MATHS) - {"clustering", "losses", "metrics"}),
    "models",
    "data",
    "pretrained",
    "tasks",
    "tasks.config",
    "commands.progress",
    "files",
    "search.config",
    packages=ARRAYS | {"PIL", "lancedb", "pyarrow", "scenedetect", "gradio", "fastapi", "starlette", "uvicorn"},
)
ROOMS["search.__main__"] = _room("fields", "commands", "search", "search.config")
ROOMS["config"] = _room("fields", "tasks.config", packages=frozenset({"ml_collections"}))
ROOMS["experiment"] = _room(
    *(name for name in ROOMS if name not in PROGRAMS | {"config", "commands"} and not name.startswith("search")),
    packages=ARRAYS | {"clu", "etils"},
)
ROOMS["plan"] = _room(
    "fields",
    "parallel",
    "commands.progress",
    "data.config",
    "tasks",
    "tasks.config",
    packages=ARRAYS | {"etils"},
)
ROOMS["plan.__main__"] = _room("commands", "config", "plan", packages=frozenset({"absl"}))
ROOMS[""] = _room("version", "pretrained", "tasks", "search")  # its functions import when they are called
ROOMS["ask"] = ROOMS["caption"] = _room("choices", "commands", "tasks")
ROOMS["ablations"] = _room(
    "config", "fields", "commands.progress", "tasks.config", packages=HOST_ARRAYS | {"ml_collections", "matplotlib"}
)
ROOMS["ablate"] = _room("commands", "ablations", packages=frozenset({"absl", "ml_collections"}))
ROOMS["main"] = _room("fields", "commands", "config", "experiment", "parallel", "train", packages=frozenset({"absl"}))

# Modules of the rooms of the tasks that are rooms of their own.
ALIASES = {f"tasks.{task}.config": "tasks.configs" for task in TASKS}
ALIASES |= {f"tasks.{task}.{part}": "tasks.objectives" for task in TASKS for part in ("objective", "batch")}


def room_of(module: str) -> str | None:
    """The room of a module of the package; "" for the package itself, None for one that has no room."""
    parts = module.split(".")[1:]
    # `from hbi_jax import __version__` asks for an attribute, not for a module.
    if not parts or parts[0].startswith("__"):
        return ""
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((ALIASES.get(name, name) for name in names if name in ROOMS or name in ALIASES), None)


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # What is imported from a package may be a module of it.
            prefix = "." * node.level + (f"{node.module}." if node.module else "")
            yield from ((node.lineno, prefix + alias.name) for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """What a module of the package imports although the table does not allow it."""
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room: give it one in the table of {pathlib.Path(__file__).name}"]
    allowed = ROOMS.get(room, Room())
    found = []
    for line, name in imported(source):
        where, top = f"{module}, line {line}:", name.split(".")[0]
        if name.startswith("."):
            found.append(f"{where} relative import {name}; write the name in full")
        elif top == "hbi_jax":
            target = room_of(name)
            if target is None:
                found.append(f"{where} {name} is in no room")
            elif target not in ("", room) and target not in allowed.rooms:
                found.append(f"{where} {room or 'hbi_jax/__init__.py'} must not import {target} ({name})")
        elif top not in sys.stdlib_module_names and top not in allowed.packages:
            found.append(f"{where} {room or 'hbi_jax/__init__.py'} must not import the package {top}")
    return found


def sources() -> dict[str, str]:
    """The text of every module of the package by its name."""
    out = {}
    for path in sorted((ROOT / "hbi_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return out


def test_no_import_goes_the_wrong_way():
    assert [line for module, source in sources().items() for line in violations(module, source)] == []


def test_every_row_of_the_table_is_in_use():
    rooms = {room_of(module) for module in sources()}
    assert rooms == set(ROOMS)
    used = {}
    for module, source in sources().items():
        used.setdefault(room_of(module), set()).update(name.split(".")[0] for _, name in imported(source))
    for room, row in ROOMS.items():
        assert row.packages - ARRAYS <= used[room], f"the row of {room} allows what it does not use"


def test_the_order_has_no_circle():
    left, settled = dict(ROOMS), set()
    while left:
        ready = {room for room, row in left.items() if row.rooms <= settled}
        assert ready, f"these import each other in a circle: {sorted(left)}"
        settled |= ready
        left = {room: row for room, row in left.items() if room not in ready}


@pytest.mark.parametrize(
    "module",
    [
        "hbi_jax.config",
        "hbi_jax.commands.cli",
        "hbi_jax.ablate",
        "hbi_jax.ask",
        "hbi_jax.caption",
        "hbi_jax.data.__main__",
        "hbi_jax.main",
        "hbi_jax.plan.__main__",
        "hbi_jax.pretrained.__main__",
        "hbi_jax.search.__main__",
    ],
)
def test_commands_explain_and_refuse_fields_without_loading_jax(module):
    code = f"import sys, {module}; print('jax' in sys.modules, 'numpy' in sys.modules)"
    assert _run(code).split() == ["False", "False"]


def test_commands_that_draw_nothing_load_no_drawing_library():
    code = "import sys, hbi_jax.experiment, hbi_jax.search.index; print({'matplotlib', 'sklearn'} & set(sys.modules))"
    assert _run(code).strip() == "set()"


def test_core_rooms_build_on_core_rooms_and_arrays_alone():
    for room in CORE:
        assert ROOMS[room].rooms <= set(CORE)
        assert ROOMS[room].packages <= ARRAYS


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("hbi_jax.losses", "from hbi_jax.models.hbi import HBI", "losses must not import models"),
        ("hbi_jax.losses", "from hbi_jax import types, models", "losses must not import models"),
        ("hbi_jax.types", "import hbi_jax.banzhaf.exact as exact", "types must not import banzhaf"),
        ("hbi_jax.models.hbi", "def f():\n    from hbi_jax.train import step", "line 2: models must not"),
        ("hbi_jax.data.pipeline", "if TYPE_CHECKING:\n    import hbi_jax.config", "data must not import config"),
        ("hbi_jax.data.shapes.plan", "from hbi_jax.data.text import clean", "data.shapes must not import data"),
        ("hbi_jax.train.step", "from hbi_jax.train.loop import train", "train must not import train.loop"),
        ("hbi_jax.report.report", "import hbi_jax.train.writers", "must not import train.writers"),
        ("hbi_jax.experiment", "from hbi_jax.main import run", "experiment must not import main"),
        ("hbi_jax.commands.progress", "import numpy", "commands.progress must not import the package numpy"),
        ("hbi_jax.banzhaf.exact", "import os, grain.python", "banzhaf must not import the package grain"),
        ("hbi_jax.train.optimizer", "from clu import metrics", "train must not import the package clu"),
        ("hbi_jax.models.clip", "from ..types import Batch", "relative import ..types.Batch"),
        ("hbi_jax", "import numpy", "hbi_jax/__init__.py must not import the package numpy"),
        ("hbi_jax", "from hbi_jax import banzhaf", "hbi_jax/__init__.py must not import banzhaf"),
        ("hbi_jax.utils", "import os", "hbi_jax.utils is in no room"),
        ("hbi_jax.experiment", "from hbi_jax import helpers", "hbi_jax.helpers is in no room"),
    ],
)
def test_the_checker_catches(module, source, complaint):
    (found,) = violations(module, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("hbi_jax.banzhaf", "from hbi_jax.banzhaf.exact import interaction"),
        ("hbi_jax.models.hbi", "import dataclasses, jax\nfrom hbi_jax import losses\nfrom jax import numpy"),
        ("hbi_jax.train.loop", "from hbi_jax.train.writers import MetricWriter\nimport numpy"),
        ("hbi_jax.experiment", "from hbi_jax import __version__, tasks"),
    ],
)
def test_the_checker_passes(module, source):
    assert violations(module, source) == []


def test_what_is_imported_is_required():
    provides = {
        "PIL": "pillow",
        "absl": "absl-py",
        "orbax": "orbax-checkpoint",
        "sklearn": "scikit-learn",
        "tensorflow_datasets": "tensorflow-datasets",
    }
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    required = {line.split(";")[0].split("==")[0].split(">=")[0].strip() for line in lines if line}
    # Extras, which are asked for where they are missing.
    used = frozenset().union(*(row.packages for row in ROOMS.values())) - EXTRAS
    assert {provides.get(package, package) for package in used} - required == set()


def _run(code: str) -> str:
    """Runs a program in a fresh interpreter, outside the tests' type checking; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_other():
    code = """
import sys
before = {name.split(".")[0] for name in sys.modules}
import hbi_jax
after = {name.split(".")[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
"""
    assert _run(code).strip() == "['hbi_jax']"


def test_the_core_runs_where_nothing_else_is_installed():
    modules = [module for module in sources() if room_of(module) in CORE]
    assert {"hbi_jax.banzhaf.exact", "hbi_jax.models.hbi", "hbi_jax.train.step"} <= set(modules)
    code = f"""
import importlib, sys
import flax.linen, jax, jaxtyping, numpy, optax
# flax and optax need some of these for themselves: a module that is loaded is taken away again.
absent = {{"absl", "array_record", "av", "clu", "etils", "ftfy", "grain", "matplotlib", "ml_collections", "orbax",
          "PIL", "safetensors", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "tokenizers", "torch",
          "transformers"}}
for name in [name for name in sys.modules if name.split(".")[0] in absent]:
    del sys.modules[name]

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)

sys.meta_path.insert(0, Absent())
for name in absent:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} can still be imported")
for name in {modules}:
    importlib.import_module(name)

from hbi_jax import banzhaf
similarity = jax.numpy.array([[0.9, 0.1], [0.2, 0.8]])
zeros = jax.numpy.zeros(2)
print(numpy.round(banzhaf.interaction(similarity, zeros, zeros), 3).tolist())
"""
    (first, second), (third, fourth) = ast.literal_eval(_run(code))
    # Each word with its own frame is worth something together, with the other's frame less than nothing.
    assert min(first, fourth) > 0 > max(second, third)
