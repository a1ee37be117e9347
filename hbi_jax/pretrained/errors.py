"""The error of this package, and helpers for its messages."""

import contextlib
from collections.abc import Iterator, Sequence


class PretrainedError(ValueError):
    """An error while reading, translating, writing or using weights. The message gives weights, reason and remedy."""


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Puts the origin of weights before the message of an error about them."""
    try:
        yield
    except PretrainedError as error:
        raise PretrainedError(f"{where}: {error}") from error


def listed(items: Sequence[str], separator: str = ", ", most: int = 20) -> str:
    """Returns the items as text, or the first few and the number of the others."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([*items[:most], *more])
