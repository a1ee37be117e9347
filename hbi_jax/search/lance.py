"""An engine for many clips: a LanceDB table with an approximate index over one vector a clip.

The vector is the mean of a clip's normalised tokens by their weights, level after level. Its product with a query's
mean is the mean similarity of all pairs of tokens, where the scan takes maxima. The nearest clips are scored by the
scan, from the memory-mapped files of the segments: at the coarsest level, and the best of those at all levels.

A segment that the table does not hold as the manifest wants it, because a change was interrupted, is scanned.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from hbi_jax.commands.progress import Progress
from hbi_jax.files import replace_file
from hbi_jax.search import scan
from hbi_jax.search.config import SearchError
from hbi_jax.search.engine import Places
from hbi_jax.search.flat import FlatEngine
from hbi_jax.search.pages import Pages
from hbi_jax.search.store import Segment

if TYPE_CHECKING:
    import pyarrow

_log = logging.getLogger(__name__)

FOLDER, _TABLE, _STATE = "lance", "clips", "state.json"
# Below this number of clips LanceDB compares all of them, which is as fast and exact.
_INDEXED_FROM = 5000
# Clips per write: few large files rather than many small ones.
_BATCH = 16_384
# Bits of the index for each number of a vector, and the parts of the index that a query reads.
_BITS, _PROBES = 4, 50
# For every clip that is asked for, this many of the nearest are scored at the level with the fewest tokens, which is
# cheap, and this many of those at all levels.
_NEAREST, _SCORED = 50, 5


class LanceEngine:
    """Keeps a vector of each clip in a LanceDB table, beside the tokens in the segments."""

    def __init__(self, folder: pathlib.Path, levels: Sequence[str], mesh: Mesh, indexed_from: int = _INDEXED_FROM):
        """Opens the table if there is one.

        Args:
          folder: The folder of the index.
          levels: The levels that score.
          mesh: The devices that scan what the table does not hold.
          indexed_from: Number of clips from which they are indexed.

        Raises:
          SearchError: If LanceDB is not installed.
        """
        try:
            import lancedb
        except ImportError as error:
            raise SearchError(
                f"engine='lance': wanted LanceDB ({error}); pip install 'hbi_jax[search]', or use engine='flat'"
            ) from error
        self._levels, self._indexed_from = levels, indexed_from
        self._rest = FlatEngine(levels, mesh)
        self._place = folder / FOLDER
        self._db = lancedb.connect(os.fspath(self._place))
        self._table = None
        with contextlib.suppress(ValueError, FileNotFoundError):
            self._table = self._db.open_table(_TABLE)
        self.add([])

    def add(self, segments: Sequence[Segment], writing: bool = False) -> None:  # noqa: D102
        if len({_prefix(segment.name) for segment in segments}) < len(segments):
            raise SearchError("two segments have the same key; index the videos again, into another folder")
        self._pages = Pages([segment.arrays() if len(segment.clips.source) else {} for segment in segments])
        self._alive = [segment.alive for segment in segments]
        if writing:
            self._write(segments)
        state = self._read_state() if self._table is not None else {}
        held = [
            not len(segment.clips.source) or state.get(segment.name) == sorted(segment.dropped) for segment in segments
        ]
        self._held = {_prefix(segments[number].name): number for number in np.flatnonzero(held)}
        self._others = np.flatnonzero(~np.array(held, bool))
        self._rest.add([segments[number] for number in self._others])
        if len(self._others):
            _log.warning(
                "%s lacks %d of %d segments, because a change was interrupted or goes on; they are scanned, which is "
                "exact but slow: index the same videos again",
                self._place,
                len(self._others),
                len(segments),
            )

    def _read_state(self) -> dict[str, list[int]]:
        """Returns which segments the table holds, each with its dropped files; nothing if that is not known."""
        try:
            state = json.loads((self._place / _STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self, state: Mapping[str, Sequence[int]]) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        replace_file(self._place / _STATE, json.dumps(state))

    def _write(self, segments: Sequence[Segment]) -> None:
        """Makes the table that of the segments: adds the new ones, deletes what is dropped or gone."""
        before = self._read_state()
        now = {segment.name: sorted(segment.dropped) for segment in segments}
        if now == before:
            return
        # Until the end, the table is trusted with what does not change.
        self._write_state({name: dropped for name, dropped in before.items() if now.get(name) == dropped})
        new = [number for number, segment in enumerate(segments) if segment.name not in before]
        if self._table is not None:
            # Of the new ones, what an interrupted pass may have written.
            for name in (before.keys() - now.keys()) | (now.keys() - before.keys()):
                self._table.delete(_between(name))
        total = sum(len(self._alive[number]) for number in new)
        with Progress(total, "add clips to LanceDB", shown=total > _BATCH) as progress:
            for number in new:
                for start in range(0, len(self._alive[number]), _BATCH):
                    rows = self._rows(segments[number].name, self._pages.arrays[number], start)
                    if self._table is None:
                        self._table = self._db.create_table(_TABLE, rows)
                    else:
                        self._table.add(rows)
                    progress.update(rows.num_rows)
        for number, segment in enumerate(segments):
            dead = np.flatnonzero(~self._alive[number]).tolist()
            if dead and now[segment.name] != before.get(segment.name, []):
                self._table.delete(f"key IN ({', '.join(str(_prefix(segment.name) + row) for row in dead)})")
        if new and self._table is not None:
            self._index()
        self._write_state(now)

    def _index(self) -> None:
        from lancedb.index import IvfRq

        count = self._table.count_rows()
        if self._table.list_indices():
            self._table.optimize()
        elif count >= self._indexed_from:
            _log.info("indexing %d clips", count)
            self._table.create_index("vector", config=IvfRq(distance_type="cosine", num_bits=_BITS))

    def _rows(self, name: str, arrays: Mapping[str, np.ndarray], start: int) -> "pyarrow.Table":
        """Returns some rows of a segment as a table."""
        import pyarrow as pa

        part = np.s_[start : start + _BATCH]
        vectors = []
        for side in scan.sides(arrays, self._levels).values():
            features, scale, weight = (each[part] for each in side)
            vectors.append(np.einsum("nkd,nk->nd", features, scale * weight))
        joined = np.concatenate(vectors, axis=1)
        keys = _prefix(name) + start + np.arange(len(joined))
        column = pa.FixedSizeListArray.from_arrays(pa.array(joined.ravel()), joined.shape[1])
        return pa.table({"key": pa.array(keys), "vector": column})

    def candidates(self, query: scan.Query, count: int) -> tuple[Places, Float[np.ndarray, " n"]]:  # noqa: D102
        rest, rest_scores = self._rest.candidates(query, count)
        near, near_scores = self._near(query, count)
        scores = np.concatenate([near_scores, rest_scores])
        best = scan.top(scores, count)
        self._pages.give_back()
        segment = np.concatenate([near.segment, self._others[rest.segment]])
        return Places(segment[best], np.concatenate([near.row, rest.row])[best]), scores[best]

    def _near(self, query: scan.Query, count: int) -> tuple[Places, Float[np.ndarray, " n"]]:
        """Returns nearly the best of the clips that the table holds, and their scores."""
        if self._table is None or not self._held:
            return Places(np.zeros(0, int), np.zeros(0, int)), np.zeros(0, np.float32)
        means = [query.rates[level] * (query.weights[level] @ query.words[level]) for level in self._levels]
        nearest = (
            self._table.search(np.concatenate(means).astype(np.float32), vector_column_name="vector")
            .distance_type("cosine")
            .nprobes(_PROBES)
            .limit(min(_NEAREST * count, sum(map(len, self._alive))))
            .select(["key", "_distance"])
            .to_arrow()
        )
        keys = np.sort(nearest["key"].to_numpy())
        prefixes, inverse = np.unique(keys >> 32 << 32, return_inverse=True)
        segment = np.array([self._held.get(prefix, -1) for prefix in prefixes.tolist()], int)[inverse]
        row = (keys & 0xFFFFFFFF).astype(int)
        alive = np.zeros(len(keys), bool)
        for number, counts in enumerate(self._alive):
            alive[segment == number] = counts[row[segment == number]]
        places = Places(segment[alive], row[alive])
        if not alive.any():
            return places, np.zeros(0, np.float32)
        first = next(filter(None, self._pages.arrays))
        coarsest = min(self._levels, key=lambda level: first[f"{level}.{scan.WEIGHT}"].shape[1])
        if len(self._levels) > 1:
            places, _ = self._best(query, [coarsest], places, _SCORED * count)
        return self._best(query, self._levels, places, count)

    def _best(
        self, query: scan.Query, levels: Sequence[str], places: Places, count: int
    ) -> tuple[Places, Float[np.ndarray, " n"]]:
        """Returns the best of some clips by the scan of some levels, and their scores."""
        names = [f"{level}.{part}" for level in levels for part in scan.Side._fields]
        rows = self._pages.gather(places, *names)
        asked = scan.Query(*({level: part[level] for level in levels} for part in query))
        scores = scan.scan_blocks(asked, scan.blocks(scan.sides(rows, levels)))
        best = scan.top(scores, count)
        return Places(*(part[best] for part in places)), scores[best]

    def fetch(self, places: Places) -> Mapping[str, np.ndarray]:  # noqa: D102
        return self._pages.gather(places)

    def close(self) -> None:  # noqa: D102
        # Files stay open until nothing refers to the table.
        self.add([])
        self._table = None


def _prefix(name: str) -> int:
    """Returns the first key of a segment; the rows follow it."""
    return (int(name[:8], 16) >> 1) << 32


def _between(name: str) -> str:
    """Returns the condition that holds for every row of a segment."""
    return f"key >= {_prefix(name)} AND key < {_prefix(name) + 2**32}"
