"""The error of this package, and a helper for lists in its messages."""

from collections.abc import Sequence


class PretrainedError(ValueError):
    """An error while reading, translating, writing or using weights. The message gives weights, reason and remedy."""


def listed(items: Sequence[str], separator: str = ", ", most: int = 20) -> str:
    """Returns the items as text, or the first few and the number of the others."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([*items[:most], *more])
