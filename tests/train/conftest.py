"""Steps are compiled without XLA's slow optimisations, which these tests mostly wait for, and in this very process.

A program for several CPU devices that comes out of the compilation cache does not order its collectives: devices wait
for each other in different ones, for ever (jax 0.10.2).
"""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
