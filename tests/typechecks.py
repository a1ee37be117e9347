"""Quick type checks: jaxtyping's own go through general machinery at every call, and for every leaf of a tree."""

import functools
import types
import typing
from collections.abc import Callable

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _typeguard


def check_quickly() -> None:
    """Spares type checks the machinery that they do not need: `check_functions_quickly`, `check_trees_quickly`."""
    check_functions_quickly()
    check_trees_quickly()


def check_functions_quickly() -> None:
    """Has beartype alone check the functions that name no shapes, of which jaxtyping has nothing to remember.

    Most calls are of such functions, and jaxtyping binds and keeps the arguments of each.
    """
    general = jaxtyping.jaxtyped
    # Raised by jaxtyping, too.
    without_shapes = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))

    @functools.wraps(general)
    def jaxtyped(*arguments: object, **settings: object) -> object:
        if arguments or settings.keys() != {"typechecker"}:
            return general(*arguments, **settings)
        with_shapes = general(**settings)

        def check(function: object) -> object:
            plain = isinstance(function, types.FunctionType) and not any(
                map(_may_have_shapes, function.__annotations__.values())
            )
            return without_shapes(function) if plain else with_shapes(function)

        return check

    jaxtyping.jaxtyped = jaxtyped


def _may_have_shapes(hint: object) -> bool:
    """Whether a hint names an array's shape or a tree's structure, or cannot be read."""
    if isinstance(hint, str | typing.TypeVar) or type(hint).__module__.startswith("jaxtyping"):
        return True
    parts = hint if isinstance(hint, list) else typing.get_args(hint)
    return typing.get_origin(hint) is not typing.Literal and any(map(_may_have_shapes, parts))


def check_trees_quickly() -> None:
    """Has jaxtyping ask `isinstance` whether a leaf is of a class, without the general machinery around it."""
    general = _typeguard.typechecked

    def typechecked(function: Callable) -> Callable:
        hint = function.__annotations__["x"]
        # Others are more than `isinstance`, such as float, which accepts integers.
        if not isinstance(hint, type) or hint in (float, complex):
            return general(function)

        def accepts(leaf: object) -> None:
            if not isinstance(leaf, hint):
                raise TypeError(f"{type(leaf).__name__} is no {hint.__name__}")

        return accepts

    _typeguard.typechecked = typechecked
