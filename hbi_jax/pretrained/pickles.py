"""A pickle reader that executes nothing: it builds plain containers and descriptions of tensors.

Torch's files contain a pickle, and a pickle can name any function and have it called. This reader never imports a
name: it interprets each opcode itself, takes calls from a short table, and refuses any other name.
"""

import math
import pickletools
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hbi_jax.pretrained.errors import PretrainedError

# Maximum number of opcodes and of elements copied between containers. Without it, a few bytes could fill the memory.
_MAX_ELEMENTS = 4 * 10**6


class Storage(NamedTuple):
    """A contiguous block of numbers in a file."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Bag:
    """The attributes of an object whose class is not loaded."""

    def __init__(self) -> None:
        self.attributes: dict = {}


class _Global(NamedTuple):
    """A name that the pickle refers to."""

    module: str
    name: str


_STORAGES = {
    f"{kind}Storage": np.dtype(dtype)
    for kind, dtype in {
        "Float": np.float32,
        "Double": np.float64,
        "Half": np.float16,
        "BFloat16": jnp.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> Tensor:
    """Checks that a tensor lies within its storage and has no more elements than the storage."""
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise PretrainedError("it holds a tensor whose size, stride or offset is not a natural number")
    if len(shape) != len(strides) or len(shape) > 8:
        raise PretrainedError(f"it holds a tensor of {len(shape)} sizes and {len(strides)} strides")
    count = math.prod(shape)
    end = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1 if count else offset
    if end > storage.length or count > storage.length:
        raise PretrainedError(
            f"it holds a tensor of size {shape}, stride {strides} and offset {offset} in a storage of "
            f"{storage.length} elements"
        )
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _keys(items: list) -> list:
    """Checks dictionary keys or set members; refuses tuples, because hashing nested tuples can take forever."""
    if not all(isinstance(item, str | int | float | None) for item in items):
        raise PretrainedError("its pickle has keys that are neither text nor numbers")
    return items


def _first(value: object, *_: object) -> object:
    return value


# The functions that a pickle may call, and their replacements.
_CALLS: dict[_Global, Callable] = {
    _Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Global("torch._utils", "_rebuild_parameter"): _first,
    _Global("torch", "Size"): tuple,
    _Global("collections", "OrderedDict"): lambda: {},
    _Global("builtins", "set"): lambda items: set(_keys(items)),
    _Global("__builtin__", "set"): lambda items: set(_keys(items)),
    # Type tags of lists and dictionaries in TorchScript.
    **{
        _Global("torch.jit._pickle", name): _first
        for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")
    },
}
# Opcodes that push a number, a string or bytes.
_CONSTANTS = frozenset(
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and not opcode.stack_before and opcode.stack_after not in ([], [pickletools.anyobject])
)


def _is_bag(name: _Global) -> bool:
    return name.module.split(".")[0] == "__torch__" or name == _Global("argparse", "Namespace")


def _admit(module: object, name: object) -> _Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PretrainedError("its pickle asks for a function whose name is not text")
    found = _Global(module, name)
    if found in _CALLS or (module == "torch" and name in _STORAGES) or _is_bag(found):
        return found
    raise PretrainedError(
        f"it asks for {module}.{name}, which is neither a tensor nor a plain container, so it is not run; if you "
        "trust the file, load it with torch and save the state dict alone: torch.save(model.state_dict(), path)"
    )


def unpickle(data: bytes, find_storage: Callable[[object, np.dtype, object], Storage]) -> object:
    """Returns the object that a torch pickle describes.

    Args:
      data: The pickle.
      find_storage: Returns the storage for a key, a type and a number of elements. It must raise if the storage does
        not exist or an argument is of the wrong type.

    Returns:
      The object, built from containers, numbers, strings, `Tensor`s and `Bag`s.

    Raises:
      PretrainedError: If the data is not a pickle, or asks for any other object.
    """
    try:
        return _run(data, find_storage)
    except PretrainedError:
        raise
    # Raised by malformed pickles: stack underflow, unknown memo entries, unhashable keys, wrong operands.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PretrainedError(f"its pickle is damaged ({type(error).__name__}: {error})") from error


def _run(data: bytes, find_storage: Callable[[object, np.dtype, object], Storage]) -> object:
    stack: list = []
    below: list[list] = []  # the stacks under the marks
    memo: dict[int, object] = {}
    built = 0

    def count(elements: int) -> None:
        nonlocal built
        built += elements
        if built > _MAX_ELEMENTS:
            raise PretrainedError(f"its pickle builds more than {_MAX_ELEMENTS} elements, so it is not a state dict")

    def since_mark() -> list:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    def call(name: _Global, arguments: tuple) -> object:
        if isinstance(name, _Global) and isinstance(arguments, tuple):
            count(sum(len(each) for each in arguments if isinstance(each, Collection)))
            if name in _CALLS:
                return _CALLS[name](*arguments)
            if _is_bag(name):
                return Bag()
        raise PretrainedError("its pickle calls an object that is not a function")

    def extend(kind: type, items: list | dict | set) -> None:
        if type(stack[-1]) is not kind:
            raise PretrainedError(f"its pickle fills a {type(stack[-1]).__name__} like a {kind.__name__}")
        (stack[-1].extend if kind is list else stack[-1].update)(items)

    def pairs(items: list) -> dict:
        return dict(zip(_keys(items[::2]), items[1::2], strict=True))

    for opcode, argument, _ in pickletools.genops(data):
        count(1)
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                below.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_SET":
                stack.append(set())
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "LIST":
                items = since_mark()
                stack.append(items)
            case "DICT":
                items = since_mark()
                stack.append(pairs(items))
            case "FROZENSET":
                items = since_mark()
                stack.append(frozenset(_keys(items)))
            case "APPEND":
                item = stack.pop()
                extend(list, [item])
            case "APPENDS":
                items = since_mark()
                extend(list, items)
            case "ADDITEMS":
                items = since_mark()
                extend(set, set(_keys(items)))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                extend(dict, pairs([key, value]))
            case "SETITEMS":
                items = since_mark()
                extend(dict, pairs(items))
            case "GLOBAL":
                stack.append(_admit(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_admit(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, name = stack.pop(), stack.pop()
                stack.append(call(name, arguments))
            case "BUILD":
                state = stack.pop()
                # The attributes of an OrderedDict, such as a state dict's version numbers, are not needed.
                if isinstance(stack[-1], Bag) and type(state) is dict:
                    count(len(state))
                    stack[-1].attributes.update(state)
                elif type(stack[-1]) is not dict:
                    raise PretrainedError("its pickle sets attributes of an object that has none")
            case "BINPERSID":
                kind, storage_type, key, _, length = stack.pop()
                if kind != "storage" or storage_type not in (_Global("torch", name) for name in _STORAGES):
                    raise PretrainedError("it refers to an external object that is not a storage")
                stack.append(find_storage(key, _STORAGES[storage_type.name], length))
            case name if name in _CONSTANTS:
                stack.append(argument)
            case name:
                raise PretrainedError(f"its pickle uses {name}, which state dicts do not need")
