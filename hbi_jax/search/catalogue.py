"""What an index consists of: its manifest, its segments, and the engine that searches them."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from hbi_jax.search import store
from hbi_jax.search.encoder import Encoder
from hbi_jax.search.engine import Engine, Places
from hbi_jax.search.flat import FlatEngine
from hbi_jax.search.lance import LanceEngine
from hbi_jax.search.pages import Pages
from hbi_jax.search.store import Manifest, Segment

# Segments are written anew if there are more than this many, or if more than this share of their clips is dropped.
_MANY_SEGMENTS, _DROPPED_SHARE = 64, 0.25
# Clips per segment when segments are written anew.
_CLIPS_PER_SEGMENT = 2**16


class Catalogue:
    """The segments of an index that count, and their engine. Whoever changes it holds the lock of the index.

    Attributes:
      folder: The folder of the index.
      manifest: The manifest that is shown.
      segments: The segments, in the order of the manifest.
      engine: The engine, which searches them.
    """

    def __init__(self, folder: pathlib.Path, encoder: Encoder, manifest: Manifest):
        """Opens the segments of a manifest."""
        self.folder, self._wanted = folder, encoder.blank_rows()
        self.segments: list[Segment] = []
        lance = manifest.settings.engine == "lance"
        self.engine: Engine = (
            LanceEngine(folder, encoder.scored, encoder.mesh) if lance else FlatEngine(encoder.scored, encoder.mesh)
        )
        self.show(manifest)

    @property
    def num_clips(self) -> int:
        """The number of clips that count."""
        return sum(int(segment.alive.sum()) for segment in self.segments)

    @property
    def files(self) -> list[store.File]:
        """The files that count, the unreadable ones included."""
        return [
            file
            for segment in self.segments
            for number, file in enumerate(segment.files)
            if number not in segment.dropped
        ]

    @property
    def _places(self) -> pathlib.Path:
        return self.folder / store.SEGMENTS

    def has(self, name: str) -> bool:
        """Returns whether a complete segment is there, whether it counts or not."""
        return (self._places / name).exists()

    def show(self, manifest: Manifest, writing: bool = False) -> None:
        """Takes over the segments of a manifest."""
        self.manifest = manifest
        opened = {segment.name: segment for segment in self.segments}
        self.segments = [
            dataclasses.replace(opened[name], dropped=frozenset(dropped))
            if name in opened
            else store.read_segment(self._places / name, dropped)
            for name, dropped in manifest.segments.items()
        ]
        for segment in self.segments:
            if segment.name not in opened:
                segment.check(self._wanted)
        self.engine.add(self.segments, writing)

    def clip(self, segment: int, row: int) -> tuple[str, float, float, Float[np.ndarray, " f"]]:
        """Returns the video, start, end and frame times of a clip, by the number of its segment and its row."""
        chosen = self.segments[segment]
        file, start, end, times = (column[row] for column in chosen.clips)
        return chosen.files[file].path, float(start), float(end), times

    def stored(self) -> Iterator[tuple[str, tuple[str, float, float], dict[str, np.ndarray]]]:
        """Yields every clip that counts: a key, its video, start and end, and its arrays without the leading axis."""
        for number, segment in enumerate(self.segments):
            for row in np.flatnonzero(segment.alive).tolist():
                rows = self.engine.fetch(Places(np.array([number]), np.array([row])))
                yield f"{segment.name}-{row}", self.clip(number, row)[:3], {key: rows[key][0] for key in rows}

    def commit(self, names: Sequence[str], gone: Iterable[str] = ()) -> None:
        """Makes finished segments count; of a file in several segments the last counts.

        Args:
          names: The names of the segments.
          gone: Files that no longer count.
        """
        manifest, without = Manifest.read(self.folder), set(gone)
        order = [*manifest.segments, *(name for name in names if name not in manifest.segments)]
        opened = {segment.name: segment for segment in self.segments}
        segments = [opened.get(name) or store.read_segment(self._places / name) for name in order]
        last = {file.path: segment.name for segment in segments for file in segment.files}
        kept = {}
        for segment in segments:
            dropped = set(manifest.segments.get(segment.name, ())) | {
                row for row, file in enumerate(segment.files) if last[file.path] != segment.name or file.path in without
            }
            if len(dropped) < len(segment.files):
                kept[segment.name] = sorted(dropped)
        self._write(dataclasses.replace(manifest, segments=kept))

    def _write(self, manifest: Manifest) -> None:
        """Shows a manifest and makes it that of the index; the engine takes it over before."""
        # An engine with files of its own may have been interrupted in a change that the manifest never saw.
        self.show(manifest, writing=True)
        if manifest != Manifest.read(self.folder):
            manifest.write(self.folder)

    def tidy(self) -> None:
        """Writes segments anew if there are many or much is dropped; removes what no longer counts."""
        rows = sum(len(segment.clips.source) for segment in self.segments)
        wants = len(self.segments) > _MANY_SEGMENTS or rows - self.num_clips > _DROPPED_SHARE * rows
        if wants:
            self._merge()
        store.remove_leftovers(self.folder, self.manifest.segments)

    def _merge(self) -> None:
        """Copies the clips that count into as few segments as possible."""
        groups: list[list[Segment]] = [[]]
        for segment in self.segments:
            if groups[-1] and sum(len(other.clips.source) for other in [*groups[-1], segment]) > _CLIPS_PER_SEGMENT:
                groups.append([])
            groups[-1].append(segment)
        names = [self._merged(group) for group in groups]
        self._write(dataclasses.replace(self.manifest, segments={name: [] for name in names}))

    def _merged(self, group: Sequence[Segment]) -> str:
        """Writes the clips of some segments that count into one segment; returns its name."""
        files, tables, places = [], [], []
        for number, segment in enumerate(group):
            kept = [row for row in range(len(segment.files)) if row not in segment.dropped]
            anew = np.full(len(segment.files), -1)
            anew[kept] = len(files) + np.arange(len(kept))
            files += [segment.files[row] for row in kept]
            rows = np.flatnonzero(segment.alive)
            clips = store.ClipTable(*(column[rows] for column in segment.clips))
            tables.append(clips._replace(source=anew[clips.source].astype(np.int32)))
            places.append(Places(np.full(len(rows), number), rows))
        table = store.ClipTable(*map(np.concatenate, zip(*tables, strict=True)))
        manifest = self.manifest
        name = store.segment_name(manifest.digest, manifest.settings, [file[:2] for file in files], {})
        if name not in manifest.segments:
            rows = Places(*map(np.concatenate, zip(*places, strict=True)))
            arrays = Pages([segment.arrays() if len(segment.clips.source) else {} for segment in group])
            store.write_segment(self.folder, name, files, table, arrays.gather(rows))
        return name
