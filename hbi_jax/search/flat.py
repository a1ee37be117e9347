"""The default engine: an exact scan of every clip, from memory-mapped files or from the memory of devices."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from hbi_jax.parallel.mesh import batch_sharding
from hbi_jax.search import scan
from hbi_jax.search.engine import Places
from hbi_jax.search.store import Segment


class FlatEngine:
    """Scans every clip. One CPU reads the files in place; other devices hold the clips, each its share of the rows.

    Attributes:
      is_exact: True.
    """

    is_exact = True

    def __init__(self, levels: Sequence[str], mesh: Mesh):
        """Holds nothing yet.

        Args:
          levels: The levels that score.
          mesh: The devices.
        """
        self._levels, self._mesh = levels, mesh
        self._in_place = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
        self.add([])

    def add(self, segments: Sequence[Segment], writing: bool = False) -> None:  # noqa: D102
        del writing
        self._arrays = [segment.arrays() if len(segment.clips.source) else {} for segment in segments]
        counts = [len(segment.clips.source) for segment in segments]
        self._segment = np.repeat(np.arange(len(segments)), counts)
        self._row = np.concatenate([np.zeros(0, int), *map(np.arange, counts)])
        self._alive = np.concatenate([np.zeros(0, bool), *(segment.alive for segment in segments)])
        self._blocks: list[scan.Block] | None = None

    def candidates(self, query: scan.Query, count: int) -> tuple[Places, Float[np.ndarray, " n"]]:  # noqa: D102
        if not self._alive.any():
            return Places(self._segment[:0], self._row[:0]), np.zeros(0, np.float32)
        scores = np.where(self._alive, self._scores(query), -np.inf)
        best = scan.top(scores, min(count, int(self._alive.sum())))
        return Places(self._segment[best], self._row[best]), scores[best]

    def _scores(self, query: scan.Query) -> Float[np.ndarray, " n"]:
        if self._blocks is None:
            self._blocks = self._place()
        return scan.scan_blocks(query, self._blocks)

    def _place(self) -> list[scan.Block]:
        """Returns the clips: files that are read in place, or one block that the devices share."""
        sides = [scan.sides(arrays, self._levels) for arrays in self._arrays if arrays]
        if self._in_place:
            return [block for part in sides for block in scan.blocks(part)]
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *sides)
        more = -len(self._row) % self._mesh.shape[self._mesh.axis_names[0]]
        placed = jax.device_put(scan.filled(joined, more), batch_sharding(self._mesh))
        return [scan.Block(placed, len(self._row))]

    def fetch(self, places: Places) -> Mapping[str, np.ndarray]:  # noqa: D102
        return gather(self._arrays, places)

    def close(self) -> None:  # noqa: D102
        self.add([])


def gather(arrays: Sequence[Mapping[str, np.ndarray]], places: Places) -> dict[str, np.ndarray]:
    """Returns rows of several segments' arrays, in the order of the places."""
    out = {}
    for name, first in next(filter(None, arrays), {}).items():
        out[name] = np.empty((len(places.row), *first.shape[1:]), first.dtype)
        for number in np.unique(places.segment):
            here = places.segment == number
            out[name][here] = arrays[number][name][places.row[here]]
    return out
