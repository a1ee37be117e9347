"""Reads the text of a compiled program into its computations and instructions.

The text is that of `jax.stages.Compiled.as_text()`: the program of one device after partitioning, scheduled and with
the layout of every array.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,<=]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """The type of one array.

    Attributes:
      dtype: Its name in the text, such as `bf16`.
      dims: Its dimensions.
      space: Where it lies: 0 in the device's memory (HBM on a TPU), 1 on the chip; others hold scalars and flags.
      size: Bytes of its elements.
      padded: Bytes that it takes in memory, as a TPU pads the minor dimensions to whole tiles.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int
    size: int
    padded: int


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
      name, opcode: As in the text.
      arrays: The arrays of its result; one, unless the result is a tuple.
      operands: The names of its operands.
      literal: What stands between its parentheses: the value of a constant, the number of a parameter.
      attributes: The rest of the line.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def attribute(self, name: str) -> str | None:
        """Returns the computation, number or word that an attribute such as `body` has, or None."""
        found = re.search(rf"[ ,]{name}=%?([\w.\-]+)", self.attributes)
        return found and found[1]

    @property
    def chain(self) -> str | None:
        """The number of the asynchronous collective that it is a part of, or None."""
        found = re.search(r'chain_id="(\w+)"', self.attributes)
        return found and found[1]

    @property
    def size(self) -> int:
        """Bytes of the elements of its result."""
        return sum(array.size for array in self.arrays)


class Computation(NamedTuple):
    """A named sequence of instructions, in the order in which they run.

    Attributes:
      instructions: By name.
      root: The name of the one that gives the result.
      parameters: The names of its parameters, by number.
    """

    instructions: Mapping[str, Instruction]
    root: str
    parameters: tuple[str, ...]


def read(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations of a program by name, and the name of the one that it starts with.

    Raises:
      ValueError: If the text is not that of a compiled program.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None:
            if found := _COMPUTATION.match(line):
                current, instructions, root, parameters = found[2], {}, "", {}
                entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            ordered = tuple(parameters[number] for number in sorted(parameters))
            computations[current] = Computation(instructions, root, ordered)
            current = None
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(line, found)
            instructions[instruction.name] = instruction
            root = instruction.name if found[1] else root
            if instruction.opcode == "parameter":
                parameters[int(instruction.literal)] = instruction.name
    if entry is None:
        raise ValueError("text: got no ENTRY computation, wanted the text of a compiled program.")
    return computations, entry


def _instruction(line: str, found: re.Match) -> Instruction:
    """Reads one line, of which the beginning was found."""
    depth, end = 1, len(line)
    for bracket in re.finditer(r"[()]", line[found.end() :]):
        depth += 1 if bracket[0] == "(" else -1
        if not depth:
            end = found.end() + bracket.start()
            break
    inside = line[found.end() : end]
    return Instruction(
        name=found[2],
        opcode=found[4],
        arrays=tuple(map(_array, _ARRAY.finditer(found[3]))),
        operands=tuple(_NAME.findall(inside)),
        literal=inside,
        attributes=line[end + 1 :],
    )


def _array(found: re.Match) -> Array:
    """Reads the type of an array."""
    dtype, dims, layout = found[1], tuple(int(size.strip("<=")) for size in found[2].split(",") if size), found[3] or ""
    digits = re.match(r"[a-z]+(\d+)", dtype)
    # Tokens take no memory.
    bits = 8 if dtype == "pred" else int(digits[1]) if digits else 0
    space = re.search(r"S\((\d+)\)", layout)
    padded = list(dims)
    order = re.match(r"\{([\d,]+)", layout)
    if (tile := re.search(r"T\(([\d,]+)\)", layout)) and order:
        minor = [int(dim) for dim in order[1].split(",")]
        # The last number of the tile belongs to the minor dimension.
        for dim, size in zip(minor, reversed(tile[1].split(",")), strict=False):
            padded[dim] = -(-padded[dim] // int(size)) * int(size)
    return Array(
        dtype,
        dims,
        int(space[1]) if space else 0,
        math.prod(dims) * bits // 8,
        math.prod(padded) * bits // 8,
    )
