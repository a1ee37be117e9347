"""The fields of the device mesh: `config.mesh`."""

import dataclasses

from hbi_jax.fields import field


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each axis of the mesh."""

    data: int = field(-1, "Devices along the batch; -1: all devices that model leaves.")
    model: int = field(1, "Devices along the towers' widths.", at_least=1)
