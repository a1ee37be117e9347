"""An index of videos: add files, search them by text or by example, see the moments."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hbi_jax import fields
from hbi_jax.commands.progress import Progress
from hbi_jax.data.datasets.readers import read_lines
from hbi_jax.search import ingest, scan, store
from hbi_jax.search.catalogue import Catalogue
from hbi_jax.search.clips import read_clips
from hbi_jax.search.config import SearchConfig, SearchError
from hbi_jax.search.encoder import Encoder, open_encoder
from hbi_jax.search.engine import Places
from hbi_jax.search.moments import Moment, TextMatch, labelled, without_overlaps
from hbi_jax.search.store import Manifest
from hbi_jax.search.words import check_script
from hbi_jax.tasks.inference import Paths
from hbi_jax.types import Encoded as EncodedTokens

# Clips that the model itself scores, where the scan is not its similarity.
CANDIDATES = 200


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
      catalogue: Its segments.
    """

    def __init__(self, folder: pathlib.Path, encoder: Encoder, manifest: Manifest):
        """Opens the segments; `open_index` opens an index by name."""
        self.folder, self.encoder, self.settings = folder, encoder, manifest.settings
        self.catalogue = Catalogue(folder, encoder, manifest)

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees memory and closes files."""
        self.catalogue.engine.close()

    @property
    def num_clips(self) -> int:
        """The number of clips that count."""
        return self.catalogue.num_clips

    @property
    def files(self) -> list[store.File]:
        """The files that count, the unreadable ones included."""
        return self.catalogue.files

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
            catalogue = self.catalogue
            catalogue.show(Manifest.read(self.folder))
            known = {file.path: file.stamp for file in self.files}
            new = {path: stamp for path, stamp in listing.files.items() if known.get(path) != stamp}
            planned = {
                store.segment_name(self.encoder.digest, self.settings, files, known): files
                for files in ingest.shards(new)
            }
            mine = list(planned)[worker::workers]
            todo = {name: planned[name] for name in mine if not catalogue.has(name)}
            label = f"index {sum(map(len, todo.values()))} videos, kB"
            total = sum(max(1, stamp.size // 1000) for files in todo.values() for _, stamp in files)
            with Progress(total, label, shown=shown and bool(todo)) as progress:
                for name, files in todo.items():
                    store.write_segment(self.folder, name, *ingest.encode_files(self.encoder, files, progress))
                    if workers == 1:
                        catalogue.commit([name])
            done = [name for name in planned if catalogue.has(name)]
            if len(done) == len(planned) or finish:
                with store.committing(self.folder):
                    catalogue.commit(done, listing.gone(known))
                    if workers == 1:
                        catalogue.tidy()
        changed = set(new) & set(known)
        good = {file.path for file in self.files if file.error is None}
        unreadable = listing.reasons | {
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
          ValueError: If there is no text, one is empty, or `top` is less than 1.
        """
        _check_top(top, "text")
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
        _check_top(top, "moment")
        query, total = self.encoder.query(encoded), self.num_clips
        count = max(CANDIDATES, 4 * top)
        while True:
            places, scores = self.catalogue.engine.candidates(query, count)
            if is_text and not self.encoder.scans_exactly and len(places.row):
                clips = self.encoder.encoded(self.catalogue.engine.fetch(places))
                places, scores = _best(places, self.encoder.similarity(encoded, clips)[0], count)
            found = [self.catalogue.clip(*place) for place in zip(*(part.tolist() for part in places), strict=True)]
            chosen = without_overlaps([(video, start, end) for video, start, end, _ in found], top)
            if len(chosen) == top or count >= total:
                break
            # A long video can fill all places with clips that overlap.
            count = min(4 * count, total)
        if not chosen:
            return []
        shown = Places(*(part[chosen] for part in places))
        rows = self.catalogue.engine.fetch(shown)
        games = self.encoder.games(encoded, self.encoder.encoded(rows), is_text)
        return [
            self._moment(found[number], float(scores[number]), tokens, game, is_text)
            for number, game in zip(chosen, games, strict=True)
        ]

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


def read_texts(path: str | os.PathLike[str]) -> list[str]:
    """Returns the lines of a text file, without blank ones.

    Raises:
      DataError: If the file cannot be read.
    """
    return [line for _, line in read_lines(pathlib.Path(path))]


def _check_top(top: int | None, what: str) -> None:
    if top is not None and top < 1:
        raise ValueError(f"top={top}: wanted 1 {what} or more; raise it")


def _best(places: Places, scores: Float[np.ndarray, " n"], count: int) -> tuple[Places, Float[np.ndarray, " m"]]:
    """Returns the clips with the largest scores, the largest first."""
    best = scan.top(scores, count)
    return Places(*(part[best] for part in places)), scores[best]


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
        return _opened(place, encoder)
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
    return _opened(place, encoder)


def _opened(place: pathlib.Path, encoder: Encoder) -> Index:
    """Opens what an index consists of now.

    Raises:
      SearchError: If it is damaged, or of another model.
    """
    while True:
        manifest = _of_model(place, Manifest.read(place), encoder)
        try:
            return Index(place, encoder, manifest)
        except SearchError:
            # A writer may have replaced the segments and removed them since the manifest was read.
            if Manifest.read(place) == manifest:
                raise


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
    names = {path.name for path in place.iterdir() if not path.name.startswith(".")} if place.is_dir() else set()
    others = names - {store.SEGMENTS, store.LOCK, store.COMMIT}
    if others:
        raise SearchError(
            f"{place} holds {min(others)} but no index: wanted a new or empty folder, or an index; choose another name"
        )
