"""Reads the text of a compiled program: its instructions, how often each one runs, its loops and its collectives.

The text is that of `jax.stages.Compiled.as_text()`: the program of one device after partitioning, scheduled and with
the layout of every array.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,<=]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_COLLECTIVES = {f"{kind}{end}": kind for kind in (*_KINDS, "collective-broadcast") for end in ("", "-start")}


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
        self.computations: dict[str, Computation] = {}
        entry, current = None, None
        for line in text.splitlines():
            if current is None:
                if found := _COMPUTATION.match(line):
                    current, instructions, root, parameters = found[2], {}, "", {}
                    entry = found[2] if found[1] else entry
            elif line.startswith("}"):
                ordered = tuple(parameters[number] for number in sorted(parameters))
                self.computations[current] = Computation(instructions, root, ordered)
                current = None
            elif found := _INSTRUCTION.match(line):
                instruction = _instruction(line, found)
                instructions[instruction.name] = instruction
                root = instruction.name if found[1] else root
                if instruction.opcode == "parameter":
                    parameters[int(instruction.literal)] = instruction.name
        if entry is None:
            raise ValueError("text: got no ENTRY computation, wanted the text of a compiled program.")
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
                inner = (*loops, Loop(instruction.name, self._trips(instruction, computation)))
            for name in _called(instruction):
                yield from self._walk(self.computations[name], inner, fused or opcode == "fusion")

    def loops(self) -> list[tuple[Loop, int]]:
        """Returns all loops, and how often each one is entered."""
        return [
            (Loop(found.instruction.name, self._trips(found.instruction, found.computation)), found.times)
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

    def _trips(self, instruction: Instruction, computation: Computation) -> int | None:
        """Returns the number of iterations of a `while`, or None if its counter cannot be followed."""
        if found := _TRIPS.search(instruction.attributes):
            return int(found[1])
        condition, body = (self.computations[instruction.attribute(name)] for name in ("condition", "body"))
        test = condition.instructions[condition.root]
        where = condition
        if test.opcode == "fusion":
            arguments = tuple(self._trace(condition, name) for name in test.operands)
            where = self.computations[test.attribute("calls")]
            test = where.instructions[where.root]
        else:
            arguments = ()
        if test.opcode != "compare":
            return None
        left, right = (self._trace(where, name, arguments) for name in test.operands)
        direction = test.attribute("direction")
        if direction in ("GT", "GE"):
            left, right, direction = right, left, {"GT": "LT", "GE": "LE"}[direction]
        carried = computation.instructions[instruction.operands[0]]
        if None in (left, right) or left[0] is None or direction not in ("LT", "LE") or carried.opcode != "tuple":
            return None

        def first(value: tuple[int | None, int]) -> int | None:
            """Returns the value of what `_trace` found in the first iteration."""
            if value[0] is None:
                return value[1]
            start = self._trace(computation, carried.operands[value[0]])
            return None if start is None or start[0] is not None else start[1] + value[1]

        def stride(index: int) -> int | None:
            result = body.instructions[body.root]
            step = self._trace(body, result.operands[index]) if result.opcode == "tuple" else None
            return step[1] if step is not None and step[0] == index else None

        begin, end, step = first(left), first(right), stride(left[0])
        # The end may be carried along, but must not change.
        if None in (begin, end, step) or step < 1 or (right[0] is not None and stride(right[0]) != 0):
            return None
        return max(0, -(-(end + (direction == "LE") - begin) // step))

    def _trace(
        self, computation: Computation, name: str, arguments: tuple[tuple[int | None, int] | None, ...] = ()
    ) -> tuple[int | None, int] | None:
        """Follows a whole number back to a constant, or to an element of the parameter plus a constant.

        Args:
          computation: The computation that holds it.
          name: The instruction that gives it.
          arguments: What the parameters of a fused computation were found to be.

        Returns:
          The number of the element (None for a constant) and the constant; or None if it is something else.
        """
        instruction = computation.instructions[name]
        follow = functools.partial(self._trace, computation, arguments=arguments)
        match instruction.opcode:
            case "constant":
                return (None, int(instruction.literal)) if re.fullmatch(r"-?\d+", instruction.literal) else None
            case "copy" | "bitcast" | "reshape" | "copy-done":
                return follow(instruction.operands[0])
            case "copy-start":
                return follow(instruction.operands[0])
            case "parameter":
                number = int(instruction.literal)
                return arguments[number] if number < len(arguments) else None
            case "get-tuple-element":
                index, source = int(instruction.attribute("index")), computation.instructions[instruction.operands[0]]
                if source.opcode == "tuple":
                    return follow(source.operands[index])
                return (index, 0) if source.opcode == "parameter" and not arguments else None
            case "add":
                left, right = map(follow, instruction.operands)
                if left is None or right is None or None not in (left[0], right[0]):
                    return None
                return (right[0] if left[0] is None else left[0], left[1] + right[1])
            case "fusion":
                inner = self.computations[instruction.attribute("calls")]
                return self._trace(inner, inner.root, tuple(map(follow, instruction.operands)))
        return None


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
