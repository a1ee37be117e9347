"""Quick compilation: the suite spends most of its time in the compiler, on programs that run for milliseconds.

Programs are compiled with few optimizations (`tests/optimized.py` compiles as users do), and each process compiles each
once: it keeps what it has compiled. Processes share nothing: in a process that has compiled thousands of programs, to
write one ended it with a segmentation fault (jaxlib 0.10 and 0.12), and programs of several devices that were read back
can deadlock in their collectives.
"""

import importlib.metadata
import os

import jax

SETTINGS = {
    "jax_disable_most_optimizations": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
OF_0_10 = importlib.metadata.version("jaxlib").startswith("0.10.")
# Saves a third of the compile time. Later versions end at a flag that they do not know.
QUICK_FLAGS = ["--xla_cpu_use_fusion_emitters=false"] if OF_0_10 else []
# Eight simulated devices on two busy cores may wait for one another longer than the default 40 seconds.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300"


def set_environment() -> None:
    """Settles how the processes compile that this one starts, and what this one reads with its first program."""
    os.environ |= {name.upper(): str(value) for name, value in SETTINGS.items()}
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK_FLAGS, PATIENCE]).strip()


def keep_programs() -> None:
    """Compiles quickly in this process, and lets it find every program again."""
    from jax._src import compilation_cache as cache

    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    # Without a folder JAX would ask for no program, not even for one that this process has kept. Nothing is written.
    jax.config.update("jax_compilation_cache_dir", os.devnull)
    kept = {}

    def get_executable_and_time(key, options, backend, devices, *rest):
        return kept.get(key, (None, None))

    def put_executable_and_time(key, name, executable, backend, seconds):
        kept[key] = executable, seconds

    cache.get_executable_and_time, cache.put_executable_and_time = get_executable_and_time, put_executable_and_time
