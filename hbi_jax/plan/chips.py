"""The published peaks of TPU chips."""

from typing import NamedTuple

_GIB = 2**30


class Chip(NamedTuple):
    """A kind of chip.

    The bandwidth between chips is that of one direction over all links of a chip: what a chip can send while it
    receives as much. Few programs use all links at once, so times that are computed from it are lower bounds.

    Attributes:
      name: Its name in `--topology`.
      memory: Bytes of its HBM.
      usable: Bytes of it that the compiler of libtpu 0.0.42 gives to a program, as its messages say.
      flops: Peak operations per second in bfloat16.
      bandwidth: Bytes per second between HBM and chip.
      interconnect: Bytes per second that it sends to other chips.
      most: The most chips of a pod.
      per_host: The chips of a host, which all get their batches from it.
      source: Where the peaks are published.
    """

    name: str
    memory: int
    usable: float
    flops: float
    bandwidth: float
    interconnect: float
    most: int
    per_host: int
    source: str


# Interconnect: half of the bidirectional bandwidth of a chip; for v4, whose page does not give that, the all-reduce
# bandwidth of a pod, 1.1 PB/s, divided by its 4,096 chips, which for the others gives the same number.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * _GIB, 30.75 * _GIB, 275e12, 1200e9, 268e9, 4096, 4, "https://cloud.google.com/tpu/docs/v4"),
        Chip("v5e", 16 * _GIB, 15.75 * _GIB, 197e12, 819e9, 200e9, 256, 8, "https://cloud.google.com/tpu/docs/v5e"),
        Chip("v5p", 95 * _GIB, 95.74 * _GIB, 459e12, 2765e9, 600e9, 8960, 4, "https://cloud.google.com/tpu/docs/v5p"),
        Chip("v6e", 32 * _GIB, 31.25 * _GIB, 918e12, 1640e9, 400e9, 256, 8, "https://cloud.google.com/tpu/docs/v6e"),
    )
}
