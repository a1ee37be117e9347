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
