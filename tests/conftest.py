"""Eight simulated CPU devices, strict rank promotion, parsed flags, compiled programs kept between tests."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Several tests train the same tiny model: only the first compiles it.
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
# Grain hands absl's flags to its worker processes.
flags.FLAGS.mark_as_parsed()
