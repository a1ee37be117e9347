"""Eight simulated CPU devices, strict rank promotion, quick compilation, and how the tests are shared out.

With JAX_PLATFORMS of an accelerator, the tests of `make test-gpu` run on its devices.
"""

import atexit
import collections
import functools
import gc
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags

from tests import compilation, typechecks
from tests.optimized import fused as fused

# Workers of pytest-xdist inherit the environment of the process that starts them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    programs = tempfile.mkdtemp(prefix="hbi_jax_programs_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    compilation.set_environment(programs)
compilation.keep_programs()
typechecks.check_quickly()
jax.config.update("jax_num_cpu_devices", 8)
# Tracing makes many objects and little garbage: looking for it as often as usual takes an eighth of a run.
gc.set_threshold(200_000, 20, 100)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Grain hands absl's flags to its worker processes.
flags.FLAGS.mark_as_parsed()

# The whole runs that tests share, the longest first.
RUNS = ("finished", "captioned", "answered")


@functools.cache
def _group(file: str) -> str:
    """Names what the tests of a file run with, in one worker: the first of the shared runs they read, or they alone."""
    text = (pathlib.Path(__file__).parents[1] / file).read_text()
    return next((run for run in RUNS if re.search(rf"def \w+\([^)]*\b{run}\b", text)), file)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes the longest first: files that read a shared run, then those with the most slow tests."""
    slow = collections.Counter(_file(item.nodeid) for item in items if item.get_closest_marker("slow"))

    def place(item: pytest.Item) -> tuple[int, int]:
        file = _file(item.nodeid)
        return (*RUNS, file).index(_group(file)), -slow[file]

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips on an accelerator what needs more devices than it has."""
    if item.get_closest_marker("eight_devices") and jax.device_count() < 8:
        pytest.skip("this machine has fewer than eight devices")


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Keeps the collector from looking, in every later test, through what earlier ones have left in caches."""
    gc.freeze()
    if nextitem is not None and nextitem.path != item.path:
        compilation.make_room()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as cores, and four at most, for folders; none for files, which are done before workers have started.

    One more would fill the time in which tests of whole jobs wait, but compile what the others have compiled.
    """
    return min(os.cpu_count() or 1, 4) if all(map(os.path.isdir, config.args)) else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Every file, and every group of files that read one run, goes to one worker, which then makes it once."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(_file(nodeid))

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that says what was skipped and why."""
    reasons = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    told = "; ".join(f"{number} because {reason}" for reason, number in reasons.most_common())
    terminalreporter.write_line(f"skipped: {told or 'nothing'}")


@pytest.fixture(scope="session", autouse=True)
def two_devices() -> Iterator[None]:
    """Runs use two devices unless a test chooses others."""
    from hbi_jax import experiment
    from hbi_jax.tasks import inference
    from hbi_jax.train import checkpoint
    from tests.tiny_run import tiny_mesh

    with pytest.MonkeyPatch.context() as patch:
        for module in (experiment, inference, checkpoint):
            patch.setattr(module, "make_mesh", tiny_mesh)
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> pathlib.Path:
    """The rendered world of the tiny runs; the first `prepare` makes it."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory) -> pathlib.Path:
    """The work folder of an uninterrupted tiny run."""
    from tests.tiny_run import run, tiny_config

    workdir = tmp_path_factory.mktemp("finished")
    run(tiny_config(world, eval__num_pictures=1), workdir)
    return workdir


@pytest.fixture(scope="session")
def answered(world, tmp_path_factory) -> pathlib.Path:
    """The work folder of a tiny run that learnt to answer questions."""
    from tests.tiny_answers import tiny_answers
    from tests.tiny_run import run

    workdir = tmp_path_factory.mktemp("answers")
    run(tiny_answers(world), workdir)
    return workdir


@pytest.fixture(scope="session")
def captioned(world, tmp_path_factory) -> pathlib.Path:
    """The work folder of a tiny run that learnt to caption, scored where no Java is found: that takes seconds."""
    from tests.tiny_captions import tiny_captions
    from tests.tiny_run import run

    workdir = tmp_path_factory.mktemp("captions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        run(tiny_captions(world), workdir)
    return workdir
