"""The number of iterations of a loop, from the text of its condition and its body."""

import functools
import re
from collections.abc import Mapping

from hbi_jax.plan.text import Computation, Instruction

# What compilers for some platforms write beside a loop.
_STATED = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# An element of what a loop carries, or None for a constant; and what is added to it.
_Value = tuple[int | None, int]


def trips(instruction: Instruction, computation: Computation, computations: Mapping[str, Computation]) -> int | None:
    """Returns the number of iterations of a `while`, or None if its counter cannot be followed.

    Args:
      instruction: The `while`.
      computation: The computation that holds it.
      computations: All computations of the program, by name.
    """
    if found := _STATED.search(instruction.attributes):
        return int(found[1])
    condition, body = (computations[instruction.attribute(name)] for name in ("condition", "body"))
    where, arguments = condition, ()
    test = condition.instructions[condition.root]
    if test.opcode == "fusion":
        arguments = tuple(_trace(computations, condition, name) for name in test.operands)
        where = computations[test.attribute("calls")]
        test = where.instructions[where.root]
    if test.opcode != "compare":
        return None
    left, right = (_trace(computations, where, name, arguments) for name in test.operands)
    direction = test.attribute("direction")
    if direction in ("GT", "GE"):
        left, right, direction = right, left, {"GT": "LT", "GE": "LE"}[direction]
    carried = computation.instructions[instruction.operands[0]]
    if None in (left, right) or left[0] is None or direction not in ("LT", "LE") or carried.opcode != "tuple":
        return None

    def first(value: _Value) -> int | None:
        """Returns the value of what `_trace` found in the first iteration."""
        if value[0] is None:
            return value[1]
        start = _trace(computations, computation, carried.operands[value[0]])
        return None if start is None or start[0] is not None else start[1] + value[1]

    def stride(index: int) -> int | None:
        """Returns what an iteration adds to an element."""
        result = body.instructions[body.root]
        step = _trace(computations, body, result.operands[index]) if result.opcode == "tuple" else None
        return step[1] if step is not None and step[0] == index else None

    begin, end, step = first(left), first(right), stride(left[0])
    # The end may be carried along, but must not change.
    if None in (begin, end, step) or step < 1 or (right[0] is not None and stride(right[0]) != 0):
        return None
    return max(0, -(-(end + (direction == "LE") - begin) // step))


def _trace(
    computations: Mapping[str, Computation],
    computation: Computation,
    name: str,
    arguments: tuple[_Value | None, ...] = (),
) -> _Value | None:
    """Follows a whole number back to a constant, or to an element of the parameter plus a constant.

    Args:
      computations: All computations of the program, by name.
      computation: The computation that holds it.
      name: The instruction that gives it.
      arguments: What the parameters of a fused computation were found to be.

    Returns:
      The number of the element (None for a constant) and the constant; or None if it is something else.
    """
    instruction = computation.instructions[name]
    follow = functools.partial(_trace, computations, computation, arguments=arguments)
    match instruction.opcode:
        case "constant":
            return (None, int(instruction.literal)) if re.fullmatch(r"-?\d+", instruction.literal) else None
        case "copy" | "bitcast" | "reshape" | "copy-start" | "copy-done":
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
            inner = computations[instruction.attribute("calls")]
            return _trace(computations, inner, inner.root, tuple(map(follow, instruction.operands)))
    return None
