"""What a compiled program costs a device: operations of its matrix products, and bytes moved to and from memory.

Unlike `jax.stages.Compiled.cost_analysis`, loop bodies count as often as they run, and arrays in the memory of the chip
itself, which the compiler fills ahead of time, are kept apart from those in the device's memory.
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hbi_jax.plan.hlo import Executed, Program
from hbi_jax.plan.text import Array, Computation, Instruction

# Passes of the matrix unit, which multiplies bfloat16, for one product of float32.
_PASSES = {"highest": 6, "high": 3}
# What moves no bytes of its own: it names, groups or ends what others move.
_FREE = re.compile(
    r"parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|partition-id|replica-id"
    r"|opt-barrier|add-dependency|domain|async-update|.*-done"
)
# Custom calls of the compiler that move nothing, and others that multiply nothing.
_MARKS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast", "Sharding")
_START, _DONE = "AsyncCollectiveStart", "AsyncCollectiveDone"
_NO_PRODUCTS = frozenset({*_MARKS, _START, _DONE, "GatherScatterIndicesBitpacked", "TopK"})


class Traffic(NamedTuple):
    """Bytes read and written.

    Attributes:
      memory: In the memory of the device: HBM on a TPU.
      on_chip: In the memory of the chip itself.
    """

    memory: int
    on_chip: int


class Costs(NamedTuple):
    """The costs of one run of a program on one device.

    Attributes:
      flops: Floating-point operations of the matrix products and convolutions.
      passes: The same, with every product of float32 at a higher precision as the passes that a TPU makes of it.
      traffic: Bytes moved.
      opaque: Names of the custom calls whose operations are not in the text, such as kernels.
    """

    flops: int
    passes: int
    traffic: Traffic
    opaque: tuple[str, ...]


class Charge(NamedTuple):
    """The costs of one instruction, of all of its runs.

    Attributes:
      run: The instruction, and how it runs.
      flops, passes: As in `Costs`.
      traffic: Bytes moved; those of a fusion are charged to the fusion.
    """

    run: Executed
    flops: int
    passes: int
    traffic: Traffic


def charges(program: Program) -> Iterator[Charge]:
    """Yields what each instruction of a program costs. Loops of unknown length count once, and so does each branch."""
    reader = _Reader(program)
    for run in program.walk():
        instruction, times = run.instruction, run.times
        flops = passes = memory = on_chip = 0
        if instruction.opcode in ("dot", "convolution"):
            flops = times * product_flops(instruction, run.computation)
            passes = flops * _passes(instruction, run.computation)
        if not run.fused:
            for space, size in reader.moved(instruction, run.computation):
                memory += times * size * (space == 0)
                on_chip += times * size * (space == 1)
        yield Charge(run, flops, passes, Traffic(memory, on_chip))


def costs(program: Program) -> Costs:
    """Returns the costs of a program: the sum of `charges`."""
    flops = passes = memory = on_chip = 0
    opaque = set()
    for charge in charges(program):
        flops += charge.flops
        passes += charge.passes
        memory += charge.traffic.memory
        on_chip += charge.traffic.on_chip
        instruction = charge.run.instruction
        if instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
            if target and target[1] not in _NO_PRODUCTS:
                opaque.add(target[1])
    return Costs(flops, passes, Traffic(memory, on_chip), tuple(sorted(opaque)))


def _passes(instruction: Instruction, computation: Computation) -> int:
    """Returns how many products a TPU makes of one: several for operands of float32 at a higher precision."""
    precision = re.search(r"operand_precision=\{(\w+)", instruction.attributes)
    operands = (computation.instructions[name].arrays[0] for name in instruction.operands[:2])
    if precision is None or all(operand.dtype != "f32" for operand in operands):
        return 1
    return _PASSES.get(precision[1], 1)


def product_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the operations of a `dot` or a `convolution`: two for each product that is added up."""
    left, right = (computation.instructions[name].arrays[0].dims for name in instruction.operands[:2])
    (result,) = instruction.arrays
    if instruction.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        contracted = [int(dim) for dim in found[1].split(",") if dim] if found else []
        return 2 * math.prod(result.dims) * math.prod(left[dim] for dim in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    sides = zip(labels.groups(), (left, right, result.dims), strict=True)
    places = [dict(zip(names, dims, strict=True)) for names, dims in sides]
    groups = int(instruction.attribute("batch_group_count") or 1)
    terms = 1
    for label, window in zip(
        sorted(name for name in places[0] if name.isdigit()), _windows(instruction.attributes), strict=False
    ):
        terms *= _valid(places[0][label], places[1][label], places[2][label], window)
    # The kernel's input features are those of one feature group.
    return 2 * terms * places[1]["i"] * places[1]["o"] * places[0]["b"] // groups


class _Window(NamedTuple):
    """One spatial dimension of a convolution: steps of the window, padding before it, distances between elements."""

    stride: int
    low: int
    input_step: int
    kernel_step: int


def _windows(attributes: str) -> list[_Window]:
    """Returns the window of each spatial dimension of a convolution."""
    found = re.search(r"window=\{(.*?)\}", attributes)
    if found is None:
        return []
    fields = dict(part.split("=") for part in found[1].split())
    count = len(fields["size"].split("x"))

    def numbers(name: str, default: str) -> list[str]:
        return fields.get(name, "x".join([default] * count)).split("x")

    return [
        _Window(int(stride), int(pad.split("_")[0]), int(left), int(right))
        for stride, pad, left, right in zip(
            numbers("stride", "1"),
            numbers("pad", "0_0"),
            numbers("lhs_dilate", "1"),
            numbers("rhs_dilate", "1"),
            strict=True,
        )
    ]


@functools.lru_cache(maxsize=4096)
def _valid(inputs: int, kernel: int, outputs: int, window: _Window) -> int:
    """Returns how many products of a dimension meet an input, rather than padding or the gaps of a dilation."""
    places = np.arange(outputs)[:, None] * window.stride - window.low + np.arange(kernel) * window.kernel_step
    inside = (places >= 0) & (places % window.input_step == 0) & (places // window.input_step < inputs)
    return int(inside.sum())


class _Reader:
    """The bytes that each instruction of a program moves."""

    def __init__(self, program: Program):
        self._computations = program.computations
        self._cache: dict[str, tuple[list[int | None], list[int | None]]] = {}

    def moved(self, instruction: Instruction, computation: Computation) -> list[tuple[int, int]]:
        """Returns the memory space and the bytes of everything that an instruction reads or writes."""
        opcode = instruction.opcode
        operands = [computation.instructions[name] for name in instruction.operands]
        if _FREE.fullmatch(opcode) or any(f'"{mark}"' in instruction.attributes for mark in _MARKS):
            return []
        if opcode == "async-start":
            # The computation that it calls is read by itself.
            return []
        if opcode == "copy-start" or opcode.endswith("slice-start"):
            # The result names the source as well; a copy has its destination first.
            target = instruction.arrays[0 if opcode == "copy-start" else len(operands)]
            return [(operands[0].arrays[0].space, target.padded), (target.space, target.padded)]
        results = instruction.arrays
        if opcode.endswith("-start") and len(results) > 1:
            results = results[len(operands) : 2 * len(operands)]
        if opcode == "fusion":
            read, written = self._fused(instruction.attribute("calls"))
        else:
            read, written = _direct(instruction, operands)
        found = _sized([operand.arrays[0] for operand in operands if operand.arrays], read)
        return found + _sized(results, written)

    def _fused(self, name: str) -> tuple[list[int | None], list[int | None]]:
        """Returns the bytes that a fusion reads of each operand and writes to each result; None: all of them."""
        if name not in self._cache:
            computation = self._computations[name]
            users: dict[str, list[Instruction]] = {}
            for instruction in computation.instructions.values():
                for operand in instruction.operands:
                    users.setdefault(operand, []).append(instruction)
            read = [self._read(computation, users, parameter) for parameter in computation.parameters]
            root = computation.instructions[computation.root]
            ends = [computation.instructions[end] for end in root.operands] if root.opcode == "tuple" else [root]
            self._cache[name] = read, [written for end in ends for written in self._written(computation, end)]
        return self._cache[name]

    def _read(self, computation: Computation, users: dict[str, list[Instruction]], name: str) -> int | None:
        """Returns the bytes of an array that a fusion reads, or None for all of them."""
        total = 0
        for user in users.get(name, []):
            if user.opcode in ("bitcast", "reshape"):
                part = self._read(computation, users, user.name)
            elif user.opcode == "fusion":
                places = [place for place, operand in enumerate(user.operands) if operand == name]
                inner = self._computations[user.attribute("calls")]
                if self._source(inner) in places:
                    # It only gives the array another shape.
                    part = self._read(computation, users, user.name)
                else:
                    parts = [self._fused(user.attribute("calls"))[0][place] for place in places]
                    part = None if None in parts else sum(parts)
            elif user.opcode == "tuple":
                part = 0
            else:
                operands = [computation.instructions[operand] for operand in user.operands]
                parts, _ = _direct(user, operands)
                parts = [parts[place] for place, operand in enumerate(user.operands) if operand == name]
                part = None if None in parts else sum(parts)
            if part is None:
                return None
            total += part
        return total

    def _source(self, computation: Computation) -> int | None:
        """Returns the number of the parameter that a fusion returns as it is, if it does so."""
        end = computation.instructions[computation.root]
        while end.opcode in ("bitcast", "reshape"):
            end = computation.instructions[end.operands[0]]
        return int(end.literal) if end.opcode == "parameter" else None

    def _written(self, computation: Computation, end: Instruction) -> list[int | None]:
        """Returns the bytes of each array that an instruction at the end of a fusion writes; None: all of them."""
        while end.opcode in ("bitcast", "reshape"):
            end = computation.instructions[end.operands[0]]
        if end.opcode == "parameter":
            return [0]
        if end.opcode == "fusion":
            return self._fused(end.attribute("calls"))[1]
        operands = [computation.instructions[operand] for operand in end.operands]
        return _direct(end, operands)[1]


def _direct(instruction: Instruction, operands: Sequence[Instruction]) -> tuple[list[int | None], list[int | None]]:
    """Returns the bytes that an instruction reads of each operand and writes to each result; None: all of them."""
    read: list[int | None] = [None] * len(operands)
    written: list[int | None] = [None] * len(instruction.arrays)
    padded = [sum(array.padded for array in operand.arrays) for operand in operands]
    result = sum(array.padded for array in instruction.arrays)
    if instruction.chain is not None or f'"{_DONE}"' in instruction.attributes:
        # Counted where it starts.
        return [0] * len(operands), [0] * len(instruction.arrays)
    if f'"{_START}"' in instruction.attributes:
        return [0] * len(operands), written
    match instruction.opcode:
        case "dynamic-slice" | "slice" | "gather":
            read[0] = min(result, padded[0])
        case "dynamic-update-slice":
            # In place.
            read[0], written = 0, [padded[1]]
        case "scatter":
            read[0] = written[0] = min(padded[-1], padded[0])
    return read, written


def _sized(arrays: Sequence[Array], sizes: Sequence[int | None]) -> list[tuple[int, int]]:
    """Returns the space and the bytes of each array; where the size is None, all of it."""
    return [
        (array.space, array.padded if size is None else min(size, array.padded))
        for array, size in zip(arrays, sizes, strict=False)
    ]
