"""The costs of a program by the parts of the model, which the compiler notes beside each instruction."""

import dataclasses
import re
from collections import Counter

from hbi_jax.plan.costs import charges
from hbi_jax.plan.hlo import Program

_OPERATION = re.compile(r'op_name="([^"]*)"')
# Modules have the names that their parents give them. The others are control flow, which tracing adds.
_MODULE = re.compile(r"[a-z]\w*")
_ADDED = re.compile(
    r"while|body|cond|branch_\d+_fun|closed_call|shard_map|checkpoint|rematted_computation|remat|scan|custom_\w+"
)
_METHOD = re.compile(r"[A-Z]\w*\.(\w+)")
REST = "the rest"


@dataclasses.dataclass(frozen=True)
class Part:
    """The costs of one part of a model on one chip.

    Attributes:
      name: The path of its modules, such as `vision_tower/transformer`, in a training step after `forward` or
        `backward`; or `the rest`, which is the optimizer, and what the compiler adds.
      flops: Operations of matrix products and convolutions.
      hbm_bytes: Bytes moved between memory and chip.
    """

    name: str
    flops: int
    hbm_bytes: int


def parts(program: Program, depth: int = 2) -> tuple[Part, ...]:
    """Returns the costs of each part, those that move the most bytes first.

    Args:
      program: The program.
      depth: The most modules in the name of a part.
    """
    flops, moved = Counter(), Counter()
    for charge in charges(program):
        found = _OPERATION.search(charge.run.instruction.attributes)
        name = part_name(found[1], depth) if found else REST
        flops[name] += charge.flops
        moved[name] += charge.traffic.memory
    found = [Part(name, flops[name], moved[name]) for name in flops if flops[name] or moved[name]]
    return tuple(sorted(found, key=lambda part: (-part.hbm_bytes, part.name)))


def part_name(operation: str, depth: int) -> str:
    """Returns the name of a part from an operation's, `jit(step)/transpose(jvp(HBI))/HBI.encode/vision_tower/.../add`.

    Where no module is named, the method of the model is.
    """
    # The first component is the jitted function, the last the operation itself.
    path = operation.split("/")[1:-1]
    direction = next(
        ("backward " if step.startswith("transpose") else "forward " for step in path if "jvp(" in step), ""
    )
    modules = [step for step in path if _MODULE.fullmatch(step) and not _ADDED.fullmatch(step)]
    methods = [found[1].strip("_") for step in path if (found := _METHOD.fullmatch(step))]
    name = "/".join(modules[:depth]) or (methods[-1] if methods else "")
    return f"{direction}{name}" if name else (f"{direction}loss" if direction else REST)
