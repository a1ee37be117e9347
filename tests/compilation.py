"""Quick compilation: the suite spends most of its time in the compiler, on programs that run for milliseconds.

Programs are compiled with few optimizations, and each once: what a process has compiled it keeps, and programs of one
device are shared with the other processes of the run through a folder. Programs of several devices are not, because
those that are read back can deadlock in their collectives.
"""

import importlib.metadata
import os

# Of jaxlib 0.10: a third of the compile time. Later versions have no other emitters, and end at a flag unknown to them.
QUICK_FLAGS = (
    ("--xla_cpu_use_fusion_emitters=false",) if importlib.metadata.version("jaxlib").startswith("0.10.") else ()
)
# Eight simulated devices on two busy cores may wait for one another for longer than the default 40 seconds.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300"


def set_environment(folder: str) -> None:
    """Settles how this process and those that it starts compile; call it before JAX is imported.

    Args:
      folder: Of this run alone: programs of another machine or version are not to be found in it.
    """
    flags = [os.environ.get("XLA_FLAGS", ""), *QUICK_FLAGS, PATIENCE]
    os.environ |= {
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "XLA_FLAGS": " ".join(flags).strip(),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def keep_programs() -> None:
    """Lets this process find every program that it has compiled again, those of several devices too."""
    from jax._src import compilation_cache as cache

    read, write = cache.get_executable_and_time, cache.put_executable_and_time
    kept = {}

    def get_executable_and_time(key, options, backend, devices, *rest):
        if key not in kept and len(devices) == 1:
            kept[key] = read(key, options, backend, devices, *rest)
        return kept.get(key, (None, None))

    def put_executable_and_time(key, name, executable, backend, seconds):
        kept[key] = executable, seconds
        if len(executable.local_devices()) == 1:
            write(key, name, executable, backend, seconds)

    cache.get_executable_and_time, cache.put_executable_and_time = get_executable_and_time, put_executable_and_time
