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
    """What finds candidates among the clips of segments.

    Attributes:
      is_exact: Whether `candidates` returns the best clips by the scan, rather than nearly all of them.
    """

    is_exact: bool

    def add(self, segments: Sequence[Segment], writing: bool = False) -> None:
        """Replaces the segments that count.

        Args:
          segments: The segments, in the order that `Places` refers to.
          writing: Whether the caller holds the lock: an engine with files of its own brings them up to date.
        """

    def candidates(self, query: Query, count: int) -> tuple[Places, Float[np.ndarray, " n"]]:
        """Returns the best clips that count, and their similarity by the scan, the best first."""

    def fetch(self, places: Places) -> Mapping[str, np.ndarray]:
        """Returns the stored arrays of some clips, in their order."""

    def close(self) -> None:
        """Frees memory and closes files."""
