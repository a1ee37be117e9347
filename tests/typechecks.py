"""Quick checks of trees: jaxtyping's own go through general machinery for every leaf."""

from collections.abc import Callable

from jaxtyping import _typeguard


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
