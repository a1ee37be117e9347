"""An index of videos: add files, search them by text or by example, see the moments."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hbi_jax import fields
from hbi_jax.commands.progress import Progress
from hbi_jax.search import ingest, scan, store
from hbi_jax.search.clips import read_clips
from hbi_jax.search.config import SearchConfig, SearchError
from hbi_jax.search.encoder import Encoder, open_encoder
from hbi_jax.search.engine import Engine, Places
from hbi_jax.search.flat import FlatEngine, gather
from hbi_jax.search.lance import LanceEngine
from hbi_jax.search.moments import Moment, TextMatch, labelled, without_overlaps
from hbi_jax.search.store import Manifest, Segment
from hbi_jax.search.words import check_script
from hbi_jax.tasks.inference import Paths
from hbi_jax.types import Encoded as EncodedTokens

# Clips that an engine returns for a query, to be scored by the model itself where the scan is not its similarity.
CANDIDATES = 200
# Segments are written anew if there are more than this many, or if more than this share of their clips is dropped.
_MANY_SEGMENTS, _DROPPED_SHARE = 64, 0.25
# Clips per segment when segments are written anew.
_CLIPS_PER_SEGMENT = 2**16


class Summary(NamedTuple):
    """What a call of `Index.add` did.

    Attributes:
      added, updated, unchanged, dropped: Numbers of files. Unreadable ones are not among them.
      unreadable: For each unreadable file the reason, by path.
      files, clips: What the index holds now.
      missing: The shards that other workers have not finished.
    """

    added: int
    updated: int
    unchanged: int
    dropped: int
    unreadable: Mapping[str, str]
    files: int
    clips: int
    missing: int = 0


class Index:
    """An index, opened with its model. It is a context manager; `close` frees what the engine holds.

    Attributes:
      folder: Its folder.
      encoder: Its model.
      settings: How files are cut and stored.
    """

    def __init__(self, folder: pathlib.Path, encoder: Encoder, manifest: Manifest):
        """Opens the segments; `open_index` opens an index by name."""
        self.folder, self.encoder, self.settings = folder, encoder, manifest.settings
        self._engine = make_engine(folder, encoder, manifest.settings)
        self._segments: list[Segment] = []
        self._show(manifest)

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees memory and closes files."""
        self._engine.close()

    @property
    def num_clips(self) -> int:
        """The number of clips that count."""
        return sum(int(segment.alive.sum()) for segment in self._segments)

    @property
    def files(self) -> list[store.File]:
        """The files that count, the unreadable ones included."""
        return [
            file
            for segment in self._segments
            for number, file in enumerate(segment.files)
            if number not in segment.dropped
        ]

    def _show(self, manifest: Manifest, writing: bool = False) -> None:
        """Takes over the segments of a manifest."""
        opened = {segment.name: segment for segment in self._segments}
        places = self.folder / store.SEGMENTS
        self._segments = [
            dataclasses.replace(opened[name], dropped=frozenset(dropped))
            if name in opened
            else store.read_segment(places / name, dropped)
            for name, dropped in manifest.segments.items()
        ]
        self._engine.add(self._segments, writing)

    def stored(self) -> Iterator[tuple[str, tuple[str, float, float], dict[str, np.ndarray]]]:
        """Yields every clip that counts: a key, its video, start and end, and its arrays without the leading axis."""
        for number, segment in enumerate(self._segments):
            for row in np.flatnonzero(segment.alive).tolist():
                rows = self._engine.fetch(Places(np.array([number]), np.array([row])))
                yield f"{segment.name}-{row}", self._clip(number, row)[:3], {key: rows[key][0] for key in rows}

    # Adding

    def add(
        self, videos: Paths, worker: int = 0, workers: int = 1, finish: bool = False, shown: bool = False
    ) -> Summary:
        """Adds new files, reads changed ones again, drops those that are gone from the given folders.

        Finished shards are kept if the call is interrupted, and the next call goes on from there.

        Args:
          videos: Files, or folders with videos at any depth.
          worker, workers: This process makes the shards s with s mod workers = worker. The worker that finishes last
            makes the result searchable.
          finish: Make searchable what workers have finished, although others have not.
          shown: Whether to show progress on standard error.

        Raises:
          SearchError: If a folder holds no video, the index cannot be written, or somebody else writes it.
        """
        if not 0 <= worker < workers:
            raise SearchError(f"worker={worker}: wanted 0 to {workers - 1} of workers={workers}; number them from 0")
        listing = ingest.list_files(videos)
        with store.writing(self.folder, shared=workers > 1):
            manifest = Manifest.read(self.folder)
            known = self._known(manifest)
            new = {path: stamp for path, stamp in listing.files.items() if known.get(path) != stamp}
            planned = {
                store.segment_name(self.encoder.digest, self.settings, files): files for files in ingest.shards(new)
            }
            mine = dict(list(planned.items())[worker::workers])
            todo = {name: files for name, files in mine.items() if not (self.folder / store.SEGMENTS / name).exists()}
            label = f"index {sum(map(len, todo.values()))} videos, kB"
            total = sum(max(1, stamp.size // 1000) for files in todo.values() for _, stamp in files)
            with Progress(total, label, shown=shown and bool(todo)) as progress:
                for name, files in todo.items():
                    made = ingest.encode_files(self.encoder, files, progress)
                    store.write_segment(self.folder, name, *made)
                    if workers == 1:
                        manifest = self._commit(manifest, [name])
            done = [name for name in planned if (self.folder / store.SEGMENTS / name).exists()]
            if len(done) == len(planned) or finish:
                with store.committing(self.folder):
                    manifest = self._commit(Manifest.read(self.folder), done, listing)
                    if workers == 1:
                        manifest = self._tidy(manifest)
        changed = set(new) & set(known)
        good = {file.path for file in self.files if file.error is None}
        unreadable = dict(listing.missing) | {
            file.path: file.error for file in self.files if file.error and file.path in listing.files
        }
        return Summary(
            added=len((set(new) - set(known)) & good),
            updated=len(changed & good),
            unchanged=len((set(listing.files) - set(new)) & good),
            dropped=len(set(known) - {file.path for file in self.files}),
            unreadable=unreadable,
            files=len(good),
            clips=self.num_clips,
            missing=len(planned) - len(done),
        )

    def _known(self, manifest: Manifest) -> dict[str, store.Stamp]:
        self._show(manifest)
        return {file.path: file.stamp for file in self.files}

    @staticmethod
    def _gone(known: Iterable[str], listing: ingest.Listing) -> set[str]:
        """Returns the known files below the listed folders that are no longer there."""
        below = tuple(os.path.join(folder, "") for folder in listing.folders)
        return {path for path in known if path not in listing.files and path.startswith(below)} if below else set()

    def _commit(self, manifest: Manifest, names: Sequence[str], listing: ingest.Listing | None = None) -> Manifest:
        """Makes finished segments searchable; of a file in several segments the last counts."""
        order = [*manifest.segments, *(name for name in names if name not in manifest.segments)]
        places = self.folder / store.SEGMENTS
        opened = {segment.name: segment for segment in self._segments}
        segments = [opened.get(name) or store.read_segment(places / name) for name in order]
        last = {file.path: name for name, segment in zip(order, segments, strict=True) for file in segment.files}
        gone = self._gone(last, listing) if listing else set()
        dropped = {}
        for name, segment in zip(order, segments, strict=True):
            before = set(manifest.segments.get(name, ()))
            dropped[name] = sorted(
                before | {row for row, file in enumerate(segment.files) if last[file.path] != name or file.path in gone}
            )
        kept = {
            name: dropped[name]
            for name, segment in zip(order, segments, strict=True)
            if len(dropped[name]) < len(segment.files)
        }
        changed = dataclasses.replace(manifest, segments=kept)
        if changed != manifest:
            self._show(changed, writing=True)
            changed.write(self.folder)
        return changed

    def _tidy(self, manifest: Manifest) -> Manifest:
        """Writes segments anew if there are many or much is dropped; removes what no longer counts."""
        if self.settings.engine == "flat" and self._segments:
            rows = sum(len(segment.clips.source) for segment in self._segments)
            if len(self._segments) > _MANY_SEGMENTS or rows - self.num_clips > _DROPPED_SHARE * rows:
                manifest = self._merged(manifest)
        store.remove_leftovers(self.folder, manifest.segments)
        return manifest

    def _merged(self, manifest: Manifest) -> Manifest:
        """Copies the clips that count into as few segments as possible."""
        groups: list[list[Segment]] = [[]]
        for segment in self._segments:
            if groups[-1] and sum(len(other.clips.source) for other in [*groups[-1], segment]) > _CLIPS_PER_SEGMENT:
                groups.append([])
            groups[-1].append(segment)
        names = []
        for group in groups:
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
            arrays = [segment.arrays() if len(segment.clips.source) else {} for segment in group]
            name = store.segment_name(self.encoder.digest, self.settings, [file[:2] for file in files])
            if name not in manifest.segments:
                rows = Places(*map(np.concatenate, zip(*places, strict=True)))
                store.write_segment(self.folder, name, files, table, gather(arrays, rows))
            names.append(name)
        merged = dataclasses.replace(manifest, segments={name: [] for name in names})
        self._show(merged, writing=True)
        merged.write(self.folder)
        return merged

    # Searching

    def search(self, text: str, top: int = 10) -> list[Moment]:
        """Returns the moments that match a text best, the best first; of overlapping ones the best.

        Args:
          text: A sentence.
          top: Number of moments.

        Raises:
          ValueError: If the text is empty or `top` is less than 1.
        """
        encoded = self.encoder.texts([text])
        check_script(text)
        (token_ids,), (real,) = self.encoder.tokenizer.encode([text])
        tokens = [self.encoder.tokenizer.decode([token]) for token in token_ids[real][1:-1].tolist()]
        return self._search(encoded, top, tokens)

    def search_like(
        self, video: str | os.PathLike[str], top: int = 10, start: float | None = None, end: float | None = None
    ) -> list[Moment]:
        """Returns the moments that are most like a video, the best first.

        Two videos are compared as text and video are, by their tokens; nothing is reconstructed, as that needs a text.

        Args:
          video: The file. It need not be in the index.
          top: Number of moments.
          start, end: The part of it, in seconds; None: its beginning and end.

        Raises:
          VideoError: If it cannot be read.
          ValueError: If `top` is less than 1.
        """
        encoded, times = self._example(video, start, end)
        return self._search(encoded, top, [f"{time:.1f} s" for time in times], is_text=False)

    def rank_texts(
        self, video: str | os.PathLike[str], texts: Sequence[str], top: int | None = None
    ) -> list[TextMatch]:
        """Returns the texts that match a video best, the best first.

        Args:
          video: The file. It need not be in the index.
          texts: The texts.
          top: Number of texts; None: all.

        Raises:
          VideoError: If it cannot be read.
          ValueError: If there is no text, or one is empty.
        """
        encoded = self.encoder.texts(texts)
        clip, _ = self._example(video)
        scores = self.encoder.similarity(encoded, clip)[:, 0]
        order = np.argsort(-scores, kind="stable")[:top]
        return [TextMatch(texts[number], float(scores[number])) for number in order]

    def _example(
        self, video: str | os.PathLike[str], start: float | None = None, end: float | None = None
    ) -> tuple[EncodedTokens, Float[np.ndarray, " f"]]:
        span = (None, None) if start is None and end is None else (start or 0.0, end)
        clips, _ = read_clips(video, self.encoder.clips, [span])
        return self.encoder.encode_clips(clips.frames, clips.mask), clips.times[0][clips.mask[0]]

    def _search(self, encoded: EncodedTokens, top: int, tokens: Sequence[str], is_text: bool = True) -> list[Moment]:
        if top < 1:
            raise ValueError(f"top={top}: wanted 1 moment or more; raise it")
        query, total = self.encoder.query(encoded), self.num_clips
        count = max(CANDIDATES, 4 * top)
        while True:
            places, scores = self._engine.candidates(query, count)
            exact = self._engine.is_exact and (self.encoder.scans_exactly or not is_text)
            if not exact and len(places.row):
                scores = self._scores(encoded, query, self._engine.fetch(places), is_text)
                order = np.argsort(-scores, kind="stable")
                places, scores = Places(*(part[order] for part in places)), scores[order]
            found = [self._clip(*place) for place in zip(*(part.tolist() for part in places), strict=True)]
            chosen = without_overlaps([(video, start, end) for video, start, end, _ in found], top)
            if len(chosen) == top or count >= total:
                break
            # A long video can fill all places with clips that overlap.
            count = min(4 * count, total)
        if not chosen:
            return []
        shown = Places(*(part[chosen] for part in places))
        rows = self._engine.fetch(shown)
        games = self.encoder.games(encoded, self.encoder.encoded(rows), is_text)
        return [
            self._moment(found[number], float(scores[number]), tokens, game, is_text)
            for number, game in zip(chosen, games, strict=True)
        ]

    def _scores(
        self, encoded: EncodedTokens, query: scan.Query, rows: Mapping[str, np.ndarray], is_text: bool
    ) -> Float[np.ndarray, " n"]:
        """Returns the similarity of a query with fetched clips: the model's own for a text, else that of the scan."""
        if is_text:
            return self.encoder.similarity(encoded, self.encoder.encoded(rows))[0]
        return scan.scan_blocks(query, scan.sides(rows, self.encoder.scored))

    def _clip(self, segment: int, row: int) -> tuple[str, float, float, Float[np.ndarray, " f"]]:
        chosen = self._segments[segment]
        file, start, end, times = (column[row] for column in chosen.clips)
        return chosen.files[file].path, float(start), float(end), times

    @staticmethod
    def _moment(
        clip: tuple, score: float, tokens: Sequence[str], game: Float[np.ndarray, "t f"], is_text: bool
    ) -> Moment:
        video, start, end, times = clip
        seen = [round(float(time), 3) for time in times[: game.shape[1]]]
        if is_text:
            words, frames, values = labelled(tokens, seen, game)
        else:
            fits = game.shape == (len(tokens), len(seen))
            words, frames, values = (tuple(tokens), tuple(seen), game) if fits else labelled((), (), game)
        return Moment(video, start, end, score, words, frames, values)


def make_engine(folder: pathlib.Path, encoder: Encoder, settings: SearchConfig) -> Engine:
    """Returns the engine that the settings of an index name, without any clips."""
    if settings.engine == "lance":
        return LanceEngine(folder, encoder.scored)
    return FlatEngine(encoder.scored, encoder.mesh)


def open_index(
    folder: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Index:
    """Opens an index, or makes one if there is none and a checkpoint is given.

    Args:
      folder: The folder of the index.
      checkpoint: The model: a work folder, one of its steps, or converted weights. None: that of the index.
      **settings: Fields of `SearchConfig`, which a new index keeps; those of an index cannot be changed.

    Raises:
      SearchError: If there is no index and no checkpoint, the index is damaged, of another version or of another model,
        or its settings differ from the given ones.
      CheckpointError, PretrainedError: If the model cannot be opened.
    """
    place = pathlib.Path(folder).expanduser().absolute()
    if checkpoint is not None and not (place / store.MANIFEST).exists():
        _check_is_new(place)
        config = fields.parse(SearchConfig, settings, "search")
        encoder = open_encoder(checkpoint, config)
        with store.committing(place):
            # Several workers may begin an index at once.
            if not (place / store.MANIFEST).exists():
                Manifest(encoder.digest, encoder.path, config).write(place)
        return Index(place, encoder, _of_model(place, Manifest.read(place), encoder))
    manifest = Manifest.read(place)
    fields.parse(SearchConfig, settings, "search")
    for name, value in settings.items():
        made = getattr(manifest.settings, name)
        if value != made:
            raise SearchError(
                f"{name}={value!r}: wanted {made!r}, with which the index {place} was made; leave it out, or make "
                "another index"
            )
    try:
        encoder = open_encoder(checkpoint or manifest.checkpoint, manifest.settings)
    except ValueError as error:
        if checkpoint is not None:
            raise
        raise SearchError(
            f"the model of the index {place} was at {manifest.checkpoint} and cannot be opened there ({error}); say "
            "where it is: --checkpoint=FOLDER"
        ) from error
    return Index(place, encoder, _of_model(place, manifest, encoder))


def _of_model(place: pathlib.Path, manifest: Manifest, encoder: Encoder) -> Manifest:
    """Returns a manifest if it is that of a model.

    Raises:
      SearchError: If it is that of another model.
    """
    if encoder.digest != manifest.digest:
        raise SearchError(
            f"{encoder.path} is another model (digest {encoder.digest[:12]}) than that of the index {place} (digest "
            f"{manifest.digest[:12]}): their tokens do not compare; give the model of the index, which was at "
            f"{manifest.checkpoint}, or index the videos again, into another folder"
        )
    return manifest


def _check_is_new(place: pathlib.Path) -> None:
    """Raises if something else than an index, or what is left of one, is at a place."""
    if place.is_file():
        raise SearchError(f"{place} is a file: wanted a new folder, or an index; choose another name")
    others = (
        {path.name for path in place.iterdir()} - {store.SEGMENTS, store.LOCK, store.COMMIT}
        if place.is_dir()
        else set()
    )
    if others:
        raise SearchError(
            f"{place} holds {min(others)} but no index: wanted a new or empty folder, or an index; choose another name"
        )
