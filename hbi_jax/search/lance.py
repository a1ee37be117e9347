"""An engine for many clips: a LanceDB table with an approximate index over the tokens of one level.

The index finds candidates by MaxSim: for every token of the query its best match in a clip, summed. The search scores
them again by the model's own similarity. LanceDB keeps everything in files, and reads what a query needs.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hbi_jax.commands.progress import Progress
from hbi_jax.files import replace_file
from hbi_jax.search import scan
from hbi_jax.search.config import SearchError
from hbi_jax.search.engine import Places
from hbi_jax.search.store import Segment

if TYPE_CHECKING:
    import pyarrow

_log = logging.getLogger(__name__)

FOLDER, _TABLE, _STATE = "lance", "clips", "state.json"
# Below this number of clips LanceDB scans all of them, which is as fast and exact.
_INDEXED_FROM = 5000
# Clips per write: few large files rather than many small ones.
_BATCH = 8192


class LanceEngine:
    """Keeps clips in a LanceDB table.

    Attributes:
      is_exact: False.
    """

    is_exact = False

    def __init__(self, folder: pathlib.Path, levels: Sequence[str], indexed_from: int = _INDEXED_FROM):
        """Opens the table if there is one.

        Args:
          folder: The folder of the index.
          levels: The levels that score; the first one is searched.
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
        self._level, self._indexed_from = levels[0], indexed_from
        self._place = folder / FOLDER
        self._db = lancedb.connect(os.fspath(self._place))
        with contextlib.suppress(ValueError, FileNotFoundError):
            self._table = self._db.open_table(_TABLE)
        self._segments: Sequence[Segment] = []

    def add(self, segments: Sequence[Segment], writing: bool = False) -> None:  # noqa: D102
        prefixes = {_prefix(segment.name): number for number, segment in enumerate(segments)}
        if len(prefixes) < len(segments):
            raise SearchError("two segments have the same key; index the videos again, into another folder")
        self._segments, self._numbers = segments, prefixes
        if writing:
            self._take([segment for segment in segments if segment.has_arrays])
            self._forget()

    def _take(self, segments: Sequence[Segment]) -> None:
        """Moves the arrays of segments into the table, and indexes them."""
        total = sum(len(segment.clips.source) for segment in segments)
        with Progress(total, "move clips into LanceDB", shown=total > _BATCH) as progress:
            for segment in segments:
                arrays = segment.arrays()
                if self._has_table:
                    # What an interrupted pass may have written.
                    self._table.delete(_between(segment.name))
                for start in range(0, len(segment.clips.source), _BATCH):
                    rows = self._rows(segment.name, arrays, start)
                    self._write(rows)
                    progress.update(rows.num_rows)
        if segments and self._has_table:
            self._index()
        for segment in segments:
            segment.remove_arrays()

    @property
    def _has_table(self) -> bool:
        return getattr(self, "_table", None) is not None

    def _write(self, rows: "pyarrow.Table") -> None:
        if self._has_table:
            self._table.add(rows)
        else:
            self._table = self._db.create_table(_TABLE, rows)

    def _index(self) -> None:
        from lancedb.index import BTree, IvfRq

        names = {index.name for index in self._table.list_indices()}
        if self._table.count_rows() < self._indexed_from:
            return
        if names:
            self._table.optimize()
            return
        _log.info("indexing %d clips", self._table.count_rows())
        self._table.create_index("tokens", config=IvfRq(distance_type="cosine"))
        self._table.create_index("key", config=BTree())

    def _forget(self) -> None:
        """Deletes the rows of dropped files and segments that are gone."""
        path = self._place / _STATE
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        now = {segment.name: sorted(segment.dropped) for segment in self._segments}
        if now == before or not self._has_table:
            return
        for name in before.keys() - now.keys():
            self._table.delete(_between(name))
        for segment in self._segments:
            if now[segment.name] != before.get(segment.name, []):
                rows = np.flatnonzero(~segment.alive).tolist()
                keys = ", ".join(str(_prefix(segment.name) + row) for row in rows)
                if keys:
                    self._table.delete(f"key IN ({keys})")
        replace_file(path, json.dumps(now))

    def _rows(self, name: str, arrays: Mapping[str, np.ndarray], start: int) -> "pyarrow.Table":
        """Returns some rows of a segment as a table. The tokens that are searched are normalised, padding cut off."""
        import pyarrow as pa

        part = {each: array[start : start + _BATCH] for each, array in arrays.items()}
        count = len(next(iter(part.values())))
        features, mask, scale = (part[f"{self._level}.{each}"] for each in (scan.FEATURES, "mask", scan.SCALE))
        lengths = 1 / np.where(scale > 0, scale, 1)
        tokens = (features / lengths[..., None])[mask]
        offsets = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
        columns: dict[str, Any] = {
            "key": pa.array(_prefix(name) + start + np.arange(count)),
            "tokens": pa.ListArray.from_arrays(pa.array(offsets), _fixed(tokens.astype(np.float32))),
            f"{self._level}.length": _fixed(lengths.astype(np.float32)),
        }
        columns |= {each: _fixed(array) for each, array in part.items() if each != f"{self._level}.{scan.FEATURES}"}
        self._shapes = {each: array.shape[1:] for each, array in part.items()}
        # The shapes go along with the table, for whoever opens it.
        metadata = {"shapes": json.dumps(self._shapes)}
        # A dot in a name would lead into a structure.
        named = {each.replace(".", "__"): column for each, column in columns.items()}
        return pa.table(named).replace_schema_metadata(metadata)

    def candidates(self, query: scan.Query, count: int) -> tuple[Places, Float[np.ndarray, " n"]]:  # noqa: D102
        nothing = Places(np.zeros(0, int), np.zeros(0, int)), np.zeros(0, np.float32)
        if not self._has_table or not self._segments:
            return nothing
        words = query.words[self._level]
        found = (
            self._table.search(words.astype(np.float32), vector_column_name="tokens")
            .distance_type("cosine")
            .limit(count)
            .select(["key", "_distance"])
            .to_arrow()
        )
        keys, distances = (found[name].to_numpy() for name in ("key", "_distance"))
        segments = np.array([self._numbers.get(int(key) >> 32 << 32, -1) for key in keys], int)
        places = Places(segments, (keys & 0xFFFFFFFF).astype(int))
        alive = [segment.alive for segment in self._segments]
        good = np.array([number >= 0 and alive[number][row] for number, row in zip(*places, strict=True)], bool)
        # A mean of cosines rather than a sum of distances.
        scores = (len(words) - distances) / len(words)
        return Places(*(part[good] for part in places)), scores[good].astype(np.float32)

    def fetch(self, places: Places) -> Mapping[str, np.ndarray]:  # noqa: D102
        keys = [_prefix(self._segments[segment].name) + int(row) for segment, row in zip(*places, strict=True)]
        found = self._table.search().where(f"key IN ({', '.join(map(str, keys))})").limit(len(keys)).to_arrow()
        order = {key: row for row, key in enumerate(found["key"].to_pylist())}
        rows = found.take([order[key] for key in keys]).combine_chunks()
        shapes = json.loads((self._table.schema.metadata or {})[b"shapes"])
        features = f"{self._level}.{scan.FEATURES}"
        out = {
            each: _unfixed(rows[each.replace(".", "__")], shape) for each, shape in shapes.items() if each != features
        }
        mask = out[f"{self._level}.mask"]
        tokens = rows["tokens"].chunk(0)
        values = np.zeros((len(keys), *shapes[features]), np.float32)
        values[mask] = _unfixed(tokens.flatten(), (shapes[features][-1],))
        # Padding repeats the first real token, as in `scan.side`.
        first = values[np.arange(len(keys)), mask.argmax(axis=1)]
        values = np.where(mask[..., None], values, first[:, None])
        lengths = _unfixed(rows[f"{self._level}__length"], mask.shape[1:])
        return out | {features: values * lengths[..., None]}

    def close(self) -> None:  # noqa: D102
        # Files stay open until nothing refers to the table.
        self._segments, self._table = [], None


def _prefix(name: str) -> int:
    """Returns the first key of a segment; the rows follow it."""
    return (int(name[:8], 16) >> 1) << 32


def _between(name: str) -> str:
    """Returns the condition that holds for every row of a segment."""
    return f"key >= {_prefix(name)} AND key < {_prefix(name) + 2**32}"


def _fixed(array: np.ndarray) -> "pyarrow.FixedSizeListArray":
    import pyarrow as pa

    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _unfixed(column: Any, shape: Sequence[int]) -> np.ndarray:
    array = column.combine_chunks() if hasattr(column, "chunks") else column
    array = array.chunk(0) if hasattr(array, "chunks") else array
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *shape)
