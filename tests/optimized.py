"""Programs compiled as users compile them: the suite's own are compiled quickly, which hides what they cost."""

import jax

from tests.compilation import QUICK_FLAGS

OPTIONS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def compile_optimized(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles once more, with XLA's defaults in place of what `tests/conftest.py` sets."""
    defaults = {"xla_cpu_use_fusion_emitters": True} if QUICK_FLAGS else {}
    return lowered.compile(compiler_options=OPTIONS | defaults)
