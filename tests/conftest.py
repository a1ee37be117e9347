"""Eight simulated CPU devices, strict rank promotion, quick compilation, parsed flags."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tiny models spend their time in the compiler; this halves it. A persistent cache of compiled programs would save
# more, but programs of several simulated devices that come out of one deadlock.
jax.config.update("jax_disable_most_optimizations", True)
# Grain hands absl's flags to its worker processes.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> pathlib.Path:
    """The rendered world of the tiny runs; the first `prepare` makes it."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory) -> pathlib.Path:
    """The work folder of an uninterrupted tiny run."""
    from tests.tiny_run import run, tiny_config

    workdir = tmp_path_factory.mktemp("finished")
    run(tiny_config(world), workdir)
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
