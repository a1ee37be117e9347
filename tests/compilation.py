"""Quick compilation: the suite spends most of its time in the compiler, on programs that run for milliseconds.

Programs are compiled with few optimizations (`tests/optimized.py` compiles as users do), and each once: a process keeps
what it has compiled, and shares programs of one device with the other processes of the run through a folder. Programs
of several devices are not shared: read back, they can deadlock in their collectives.

Programs are forgotten before they take too much. Each takes several mappings of memory, of which Linux gives a process
65,530; the compiler ends a process that has no more of them with a segmentation fault. And all of a run's programs
would take 10 GB.
"""

import contextlib
import gc
import importlib.metadata
import os
import pathlib
import resource

import jax

SETTINGS = {
    # Accelerators' programs are compiled as users compile them: how they round is what is tested there.
    "jax_disable_most_optimizations": os.environ.get("JAX_PLATFORMS", "cpu") == "cpu",
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
OF_0_10 = importlib.metadata.version("jaxlib").startswith("0.10.")
# Small programs are not worth dividing among the compiler's threads. The second flag saves a third of the compile time;
# later versions end at a flag that they do not know.
QUICK_FLAGS = ["--xla_cpu_parallel_codegen_split_count=1", *["--xla_cpu_use_fusion_emitters=false"] * OF_0_10]
# Eight simulated devices on two busy cores may wait for one another longer than the default 40 seconds.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300"

# What this process has compiled, by JAX's keys.
_kept = {}


def set_environment(folder: str) -> None:
    """Settles how the processes compile that this one starts, and what this one reads with its first program.

    Args:
      folder: For programs of one device; one that this run alone uses.
    """
    os.environ |= {name.upper(): str(value) for name, value in SETTINGS.items()}
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK_FLAGS, PATIENCE]).strip()


def keep_programs() -> None:
    """Compiles quickly in this process, and lets it find every program again, those of several devices too."""
    from jax._src import compilation_cache as cache

    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    read, write = cache.get_executable_and_time, cache.put_executable_and_time

    def get_executable_and_time(key, options, backend, devices, *rest):
        if key not in _kept and len(devices) == 1:
            _kept[key] = read(key, options, backend, devices, *rest)
        return _kept.get(key, (None, None))

    def put_executable_and_time(key, name, executable, backend, seconds):
        _kept[key] = executable, seconds
        if len(executable.local_devices()) == 1:
            write(key, name, executable, backend, seconds)

    cache.get_executable_and_time, cache.put_executable_and_time = get_executable_and_time, put_executable_and_time


def make_room(share: float = 0.5, gib: float = 4) -> None:
    """Forgets every program of this process if it has more than this share of mappings, or this much memory."""
    with contextlib.suppress(OSError):
        most = int(pathlib.Path("/proc/sys/vm/max_map_count").read_text())
        with pathlib.Path("/proc/self/maps").open() as maps:
            taken = sum(1 for _ in maps)
        if taken > share * most or _resident_gib() > gib:
            _kept.clear()
            jax.clear_caches()
            # Programs in reference cycles are found among what was put aside (see `tests/conftest.py`).
            gc.unfreeze()
            gc.collect()
            # Imported late: what is imported before pytest's hook goes without type checks.
            from hbi_jax.memory import give_back

            give_back()


def _resident_gib() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30
