"""Programs compiled as users compile them: the suite's own are compiled quickly, which hides what they cost."""

from collections.abc import Iterator

import jax
import pytest
from jax._src import compiler

from tests.compilation import OF_0_10

OPTIONS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


# How users' programs are fused, which decides how they round.
FUSED = {"xla_cpu_use_fusion_emitters": True} if OF_0_10 else {}


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fuses every program of a test as users' programs are, so that equal computations round equally."""
    compile_program = compiler.compile_or_get_cached

    def compile_fused(backend, computation, devices, options, *rest, **named):
        options.env_option_overrides = [*options.env_option_overrides, *FUSED.items()]
        return compile_program(backend, computation, devices, options, *rest, **named)

    monkeypatch.setattr(compiler, "compile_or_get_cached", compile_fused)
    jax.clear_caches()
    yield
    jax.clear_caches()


def compile_optimized(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles once more, with XLA's defaults in place of what `tests/conftest.py` sets."""
    return lowered.compile(compiler_options=OPTIONS | FUSED)
