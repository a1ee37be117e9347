"""A compiled program: which instructions run and how often, its loops and its collectives."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from hbi_jax.plan.text import Computation, Instruction, read
from hbi_jax.plan.trips import trips

_NAME = re.compile(r"%([\w.\-]+)")
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_COLLECTIVES = {f"{kind}{end}": kind for kind in (*_KINDS, "collective-broadcast") for end in ("", "-start")}


class Loop(NamedTuple):
    """A loop that runs around an instruction.

    Attributes:
      name: The name of its `while` instruction.
      trips: Its number of iterations, or None if the text does not tell.
    """

    name: str
    trips: int | None


class Executed(NamedTuple):
    """An instruction, and how the program runs it.

    Attributes:
      instruction: The instruction.
      computation: The computation that holds it, and its operands.
      loops: The loops around it, from the outermost.
      fused: Whether it is part of a fusion, which is yielded as well.
    """

    instruction: Instruction
    computation: Computation
    loops: tuple[Loop, ...]
    fused: bool

    @property
    def times(self) -> int:
        """How often it runs; loops of unknown length count once."""
        return math.prod(loop.trips or 1 for loop in self.loops)


class Collective(NamedTuple):
    """A communication of all devices.

    Attributes:
      kind: Such as `all-gather`.
      size: Bytes of the whole array: the gathered one, or the one before a reduce-scatter.
      group: Number of devices that exchange parts of it.
      times: How often it runs.
      in_loop: Whether it stands in a loop.
    """

    kind: str
    size: int
    group: int
    times: int
    in_loop: bool

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one run, if every byte takes the shortest way round a ring."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.size)
        return self.size * (self.group - 1) / self.group * (2 if self.kind == "all-reduce" else 1)


class Program:
    """A compiled program.

    Attributes:
      computations: All computations by name.
      entry: The computation that the program starts with.
      devices: Number of devices that run it.
      num_instructions: Number of instructions in the text.
    """

    def __init__(self, text: str):
        """Reads the text.

        Raises:
          ValueError: If the text is not that of a compiled program.
        """
        self.computations, entry = read(text)
        self.entry = self.computations[entry]
        header = text[: text.find("\n")]
        partitions, replicas = (re.search(rf"{name}=(\d+)", header) for name in ("num_partitions", "replica_count"))
        self.devices = max(int(found[1]) if found else 1 for found in (partitions, replicas))
        self.num_instructions = sum(len(found.instructions) for found in self.computations.values())

    def walk(self) -> Iterator[Executed]:
        """Yields all instructions that run, with the loops around them. Of a condition, all branches are yielded."""
        yield from self._walk(self.entry, (), False)

    def _walk(self, computation: Computation, loops: tuple[Loop, ...], fused: bool) -> Iterator[Executed]:
        for instruction in computation.instructions.values():
            yield Executed(instruction, computation, loops, fused)
            inner, opcode = loops, instruction.opcode
            if opcode == "while":
                inner = (*loops, Loop(instruction.name, trips(instruction, computation, self.computations)))
            for name in _called(instruction):
                yield from self._walk(self.computations[name], inner, fused or opcode == "fusion")

    def loops(self) -> list[tuple[Loop, int]]:
        """Returns all loops, and how often each one is entered."""
        return [
            (Loop(found.instruction.name, trips(found.instruction, found.computation, self.computations)), found.times)
            for found in self.walk()
            if found.instruction.opcode == "while"
        ]

    def collectives(self) -> list[Collective]:
        """Returns all collectives."""
        found, chains = [], set()
        for run in self.walk():
            kind = _COLLECTIVES.get(run.instruction.opcode)
            if kind is None:
                continue
            # One that runs beside others is repeated in every fusion that it runs beside.
            chain = run.instruction.chain
            if chain is not None and chain in chains:
                continue
            chains.add(chain)
            operands = [run.computation.instructions[name] for name in run.instruction.operands]
            size, group = sum(operand.size for operand in operands), self._group(run.instruction)
            found.append(
                Collective(kind, size * group if kind == "all-gather" else size, group, run.times, bool(run.loops))
            )
        return found

    def _group(self, instruction: Instruction) -> int:
        """Returns the number of devices in each group of a collective."""
        text = instruction.attributes
        if found := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", text):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
            # An axis may take part with a part of itself only: 'axis':(before)size.
            axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
            return math.prod(int(part or sizes[axis]) for axis, part in axes)
        if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
            return int(found[2])
        if found := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
            return found[1].count(",") + 1
        return self.devices


def _called(instruction: Instruction) -> list[str]:
    """Returns the computations that an instruction runs; not the ones that combine two elements."""
    opcode, text = instruction.opcode, instruction.attributes
    if opcode in ("fusion", "async-start"):
        return [instruction.attribute("calls")]
    if opcode == "while":
        return [instruction.attribute("body")]
    if opcode == "call":
        return [instruction.attribute("to_apply")]
    if opcode == "conditional":
        if found := re.search(r"branch_computations=\{(.*?)\}", text):
            return _NAME.findall(found[1])
        return [instruction.attribute(name) for name in ("true_computation", "false_computation")]
    return []
