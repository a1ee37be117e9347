"""The devices of a topology that a program is compiled for: a slice of TPUs that is not here, or simulated CPUs."""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from hbi_jax.fields import ConfigError
from hbi_jax.plan.chips import CHIPS, Chip

# libtpu looks for the TPUs of this machine, says at length that it finds none, and lets in one process at a time,
# unless it is told not to.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_EXAMPLES = "such as v5e:2x4, v5e:16x16, v6e:4x4, v5p:2x2x2 or v4:2x2x1, or simulated devices such as cpu:8"


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: As it was asked for.
      chip: The kind of chip; None for simulated devices, of which no peaks are known.
      devices: One for each chip.
      slices: Number of slices, which share no host.
    """

    name: str
    chip: Chip | None
    devices: Sequence[jax.Device]
    slices: int = 1

    @property
    def hosts(self) -> int:
        """The number of hosts; at least 1."""
        if self.chip is None:
            return 1
        return self.slices * math.ceil(len(self.devices) / self.slices / self.chip.per_host)


def open_topology(name: str, slices: int = 1) -> Topology:
    """Returns the devices of a topology.

    Args:
      name: A kind of chip and the chips along each axis of a slice, such as `v5e:4x4`; or `cpu:8`.
      slices: Number of slices of TPUs; of simulated devices there are as many as `name` says.

    Raises:
      ConfigError: If the topology is unknown, or what it needs is not installed.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){0,2})", name)
    kind, sizes = (found[1], [int(size) for size in found[2].split("x")]) if found else ("", [])
    count = math.prod(sizes)
    if kind not in (*CHIPS, "cpu") or not count or (kind == "cpu") != (len(sizes) == 1):
        raise ConfigError(
            f"--topology={name}: wanted {', '.join(CHIPS)} with the chips along each axis of a slice, {_EXAMPLES}"
        )
    if kind == "cpu":
        return Topology(name, None, _simulated(name, count))
    chip = CHIPS[kind]
    if count > chip.most:
        raise ConfigError(f"--topology={name} has {count:,} chips: wanted at most the {chip.most:,} of a pod; lower it")
    return Topology(name, chip, _slices(name, kind, sizes, slices), slices)


def _simulated(name: str, count: int) -> Sequence[jax.Device]:
    # Where JAX has started already, there are as many as there are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ConfigError(f"--topology={name}: wanted at most the {len(devices)} simulated devices of this process")
    return devices[:count]


def _slices(name: str, kind: str, sizes: Sequence[int], count: int) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={name} needs the compiler of TPUs, libtpu, which is not installed: pip install "
            "'hbi_jax[plan]', or from a checkout '.[plan]' (Linux, x86-64); no TPU is needed. Without it, try "
            "--topology=cpu:8"
        )
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    # A host has up to two chips along each of the first two axes. The two cores of a v4 chip work as one device.
    bounds = (*(min(2, size) for size in (*sizes, 1)[:2]), 1)
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=name, chips_per_host_bounds=bounds, num_slices=count, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--topology={name}: libtpu knows no such slice ({reason}); wanted one {_EXAMPLES}"
        ) from error
