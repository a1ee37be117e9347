"""The fields of the device mesh: `config.mesh`."""

import dataclasses

from hbi_jax.fields import field


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each axis of the mesh."""

    data: int = field(-1, "Devices along the batch; -1: all devices that model leaves.")
    model: int = field(1, "Devices along the towers' widths.", at_least=1)
    fsdp: bool = field(
        False,
        "Whether parameters and the optimizer's moments are spread over the devices along the batch too (fully sharded "
        "data parallel): less memory, more communication.",
    )
    slices: int = field(
        1,
        "TPU slices, or hosts of GPUs, between which the network is slower than within: data-parallel across them, so "
        "that of each step only gradients and the other side's tokens pass between them. Must divide data.",
        at_least=1,
    )
