"""A safe reader for pickles of lists, dicts, text and numbers. It executes no code and resolves no names."""

import pathlib
import pickletools
from typing import Any

from hbi_jax.data.datasets.readers import content
from hbi_jax.data.datasets.records import DataError

# fmt: off
_VALUES = frozenset((
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT",
))
# fmt: on
_REMEMBER = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_RECALL = frozenset(("GET", "BINGET", "LONG_BINGET"))
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
# Guards against a small file that expands by recalling a long text many times.
_MAX_RECALLED = 10**8


def read_plain_pickle(path: pathlib.Path) -> Any:
    """Returns the content of a pickle of plain values in which each list and dict occurs once.

    Raises:
      DataError: If the file cannot be read, is damaged, or holds anything else.
    """
    try:
        return _build(content(path))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        wanted = "a pickle of lists, dicts and text alone"
        raise DataError(f"{path}", f"another or damaged pickle ({error})", wanted, "get the file again") from error


def _build(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    recalled = 0

    def since_mark() -> list[Any]:
        position = marks.pop()
        values = stack[position:]
        del stack[position:]
        return values

    def put(target: dict, items: list[Any]) -> None:
        target.update(zip(items[::2], items[1::2], strict=True))

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _REMEMBER:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in _RECALL:
            value = memo[argument]
            if isinstance(value, list | dict):
                raise ValueError("a list or dict in two places")
            recalled += len(value) if isinstance(value, str) else 1
            if recalled > _MAX_RECALLED:
                raise ValueError("a text repeated without end")
            stack.append(value)
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "DICT":
            values = since_mark()
            stack.append({})
            put(stack[-1], values)
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = since_mark()
            stack[-1].extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            put(stack[-1], [key, value])
        elif name == "SETITEMS":
            values = since_mark()
            put(stack[-1], values)
        elif name not in _IGNORED:
            raise ValueError(f"opcode {name}")
    [value] = stack
    return value
