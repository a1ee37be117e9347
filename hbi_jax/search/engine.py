"""The interface of what finds the candidates of a query among the clips."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from hbi_jax.search.scan import Query
from hbi_jax.search.store import Segment


class Places(NamedTuple):
    """Clips by the number of their segment, in the order in which the engine took them, and their row in it."""

    segment: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]


@runtime_checkable
class Engine(Protocol):
    """What finds candidates among the clips of segments."""

    def add(self, segments: Sequence[Segment], writing: bool = False) -> None:
        """Replaces the segments that count.

        Args:
          segments: The segments, in the order that `Places` refers to.
          writing: Whether the caller holds the lock: an engine with files of its own brings them up to date.
        """

    def candidates(self, query: Query, count: int) -> tuple[Places, Float[np.ndarray, " n"]]:
        """Returns clips that count, and their similarity by the scan, the best first.

        An engine may miss some of the best.
        """

    def fetch(self, places: Places) -> Mapping[str, np.ndarray]:
        """Returns the stored arrays of some clips, in their order."""

    def close(self) -> None:
        """Frees memory and closes files."""
