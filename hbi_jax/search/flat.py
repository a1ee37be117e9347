"""The default engine: an exact scan of every clip, from memory-mapped files or from the memory of devices."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from hbi_jax.parallel.mesh import batch_sharding
from hbi_jax.search import pages, scan
from hbi_jax.search.engine import Places
from hbi_jax.search.pages import Pages
from hbi_jax.search.store import Segment


class FlatEngine:
    """Scans every clip. One CPU reads the files in place; other devices hold the clips, each its share of the rows."""

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
        self._pages = Pages([segment.arrays() if len(segment.clips.source) else {} for segment in segments])
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
        if not self._in_place:
            return scan.scan_blocks(query, self._blocks)
        scores, bytes_a_clip = [], self._pages.num_bytes // len(self._row)
        some = max(1, pages.KEPT_BYTES // (scan.BLOCK * bytes_a_clip))
        for start in range(0, len(self._blocks), some):
            scores.append(scan.scan_blocks(query, self._blocks[start : start + some]))
            self._pages.give_back()
        return np.concatenate(scores)

    def _place(self) -> list[scan.Block]:
        """Returns the clips: files that are read in place, or one block that the devices share."""
        sides = [scan.sides(arrays, self._levels) for arrays in self._pages.arrays if arrays]
        if self._in_place:
            return [block for part in sides for block in scan.blocks(part)]
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *sides)
        more = -len(self._row) % self._mesh.shape[self._mesh.axis_names[0]]
        placed = jax.device_put(scan.filled(joined, more), batch_sharding(self._mesh))
        self._pages.give_back()
        return [scan.Block(placed, len(self._row))]

    def fetch(self, places: Places) -> Mapping[str, np.ndarray]:  # noqa: D102
        return self._pages.gather(places)

    def close(self) -> None:  # noqa: D102
        self.add([])
