"""Eight simulated CPU devices, strict rank promotion, quick compilation, parsed flags."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tiny models spend their time in the compiler; this halves it. A persistent cache of compiled programs would save
# more, but programs of several simulated devices that come out of one deadlock.
jax.config.update("jax_disable_most_optimizations", True)
# Grain hands absl's flags to its worker processes.
flags.FLAGS.mark_as_parsed()
