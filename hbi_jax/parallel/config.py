"""The fields of the device mesh: `config.mesh`."""

import dataclasses

from hbi_jax.fields import field


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis."""

    data: int = field(-1, "Devices along the batch; -1: all that are left.")
    model: int = field(1, "Devices along the towers' widths.", at_least=1)
