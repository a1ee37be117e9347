"""The one error of this room, and lists within its messages."""

from collections.abc import Sequence


class PretrainedError(ValueError):
    """Weights that cannot be read, translated, written or used: says which, why, and what to do."""


def listed(items: Sequence[str], separator: str = ", ", most: int = 20) -> str:
    """The items, or the first of them and how many more there are."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([*items[:most], *more])
