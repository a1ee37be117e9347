"""The files of an index: segments of clips, each complete or absent, and a manifest that names those that count.

    my.index/
      index.json                    the manifest: format, model, settings, segments, dropped files; replaced atomically
      segments/NAME/files.json      the files of a segment, and the reasons why some of them could not be read
      segments/NAME/clips.npz       source, start, end and frame times of every clip
      segments/NAME/ARRAY.npy       the tokens of every clip, memory-mapped
      lock, commit.lock             held by whoever writes segments, or the manifest

A segment gets its name, a checksum of what it is made from, only when it is complete. A writer that was interrupted
finds its finished segments by their names; what nobody finished is removed by the next writer.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shlex
import shutil
import socket
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hbi_jax import fields
from hbi_jax.files import LEFTOVERS, replace_file
from hbi_jax.search.clips import Stamp
from hbi_jax.search.config import SearchConfig, SearchError

# Increased when the meaning of the files changes.
FORMAT = 2
MANIFEST, SEGMENTS, LOCK, COMMIT = "index.json", "segments", "lock", "commit.lock"
_FILES, _CLIPS = "files.json", "clips.npz"
_UNFINISHED = ".unfinished-"
# What reading an incomplete or altered file raises.
_DAMAGES = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


class File(NamedTuple):
    """A video file of a segment.

    Attributes:
      path: Its absolute path.
      stamp: Its size and time of modification when it was read; others if it is to be read again.
      error: Why it could not be read; None if it was.
    """

    path: str
    stamp: Stamp
    error: str | None = None


class ClipTable(NamedTuple):
    """Where the clips of a segment come from, one row a clip.

    Attributes:
      source: The number of the clip's file in the segment.
      start, end: The clip, in seconds.
      times: The time of each frame, in seconds.
    """

    source: Int[np.ndarray, " n"]
    start: Float[np.ndarray, " n"]
    end: Float[np.ndarray, " n"]
    times: Float[np.ndarray, "n f"]


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """A complete part of an index.

    Attributes:
      folder: Its folder; the name of the folder is its name.
      files: Its files.
      clips: Its clips.
      dropped: The numbers of the files that no longer count: removed, or indexed anew by a later segment.
    """

    folder: pathlib.Path
    files: Sequence[File]
    clips: ClipTable
    dropped: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """The name of the segment."""
        return self.folder.name

    @property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Returns which clips count."""
        return ~np.isin(self.clips.source, sorted(self.dropped))

    def arrays(self) -> dict[str, np.ndarray]:
        """Opens the stored arrays by name, memory-mapped.

        Raises:
          SearchError: If one is damaged.
        """
        out = {}
        for path in sorted(self.folder.glob("*.npy")):
            try:
                out[path.stem] = np.load(path, mmap_mode="r" if len(self.clips.source) else None, allow_pickle=False)
            except _DAMAGES as error:
                raise _damaged(path, error) from error
            if len(out[path.stem]) != len(self.clips.source):
                raise _damaged(path, f"{len(out[path.stem])} rows, wanted {len(self.clips.source)}")
        return out

    def check(self, wanted: Mapping[str, np.ndarray]) -> None:
        """Checks that the stored arrays are those of a model.

        Args:
          wanted: What a model stores of any clip, see `Encoder.blank_rows`.

        Raises:
          SearchError: If one is missing, too many, or of another type or shape.
        """

        def kind(array: np.ndarray | None) -> str:
            return "nothing" if array is None else f"{array.dtype} of shape {array.shape[1:]}"

        stored = self.arrays()
        for name in sorted(stored.keys() | wanted.keys()) if len(self.clips.source) else ():
            got, right = kind(stored.get(name)), kind(wanted.get(name))
            if got != right:
                raise _damaged(self.folder / f"{name}.npy", f"it holds {got} for a clip, wanted {right}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an index consists of.

    Attributes:
      digest: The digest of the model.
      checkpoint: Where the model was when the index was made.
      settings: How files are cut and stored.
      segments: The names of the segments that count, each with the numbers of its dropped files.
    """

    digest: str
    checkpoint: str
    settings: SearchConfig
    segments: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    @staticmethod
    def read(folder: pathlib.Path) -> "Manifest":
        """Reads the manifest of an index.

        Raises:
          SearchError: If there is none, or it is damaged or of another version.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise SearchError(
                    f"{folder} is an index of format {content['format']!r}: wanted {FORMAT}, that of this version; "
                    "index the videos again, into another folder"
                )
            settings = fields.parse(SearchConfig, content["settings"], "settings")
            segments = {str(name): [int(row) for row in dropped] for name, dropped in content["segments"].items()}
            if any(pathlib.PurePath(name).name != name or name.startswith(".") for name in segments):
                raise ValueError("a segment's name is no plain name")
            return Manifest(str(content["digest"]), str(content["checkpoint"]), settings, segments)
        except SearchError:
            raise
        except FileNotFoundError as error:
            raise SearchError(
                f"{folder} is no index: it has no {MANIFEST}; make one: "
                f"python -m hbi_jax.search index {shlex.quote(os.fspath(folder))} --checkpoint=FOLDER VIDEOS"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error

    def write(self, folder: pathlib.Path) -> None:
        """Replaces the manifest of an index."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        replace_file(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def segment_name(
    digest: str, settings: SearchConfig, files: Sequence[tuple[str, Stamp]], known: Mapping[str, Stamp]
) -> str:
    """Returns the name of the segment of some files: a checksum of everything that it is made from.

    Args:
      digest, settings: See `Manifest`.
      files: The files, with their stamps.
      known: The stamps by which the index knows files: another try to read a file is another segment.
    """
    about = [digest, fields.plain(settings), [[path, *stamp, *known.get(path, ())] for path, stamp in files]]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def read_segment(folder: pathlib.Path, dropped: Sequence[int] = ()) -> Segment:
    """Opens a segment.

    Raises:
      SearchError: If it is damaged.
    """
    try:
        entries = json.loads((folder / _FILES).read_text(encoding="utf-8"))
        files = [File(str(path), Stamp(int(size), int(at)), error) for path, size, at, error in entries]
        with np.load(folder / _CLIPS, allow_pickle=False) as stored:
            clips = ClipTable(*(stored[name] for name in ClipTable._fields))
        rows, kinds = {len(column) for column in clips}, [(column.dtype.kind, column.ndim) for column in clips]
        good = len(rows) == 1 and kinds == [("i", 1), ("f", 1), ("f", 1), ("f", 2)]
        if not good or not np.isin(clips.source, np.arange(len(files))).all():
            raise ValueError("its columns do not fit together")
        return Segment(folder, files, clips, frozenset(dropped))
    except _DAMAGES as error:
        raise _damaged(folder, error) from error


def write_segment(
    folder: pathlib.Path, name: str, files: Sequence[File], clips: ClipTable, arrays: Mapping[str, np.ndarray]
) -> Segment:
    """Writes a segment into an index, completely or not at all.

    Args:
      folder: The index.
      name: The segment's name, see `segment_name`.
      files, clips, arrays: Its content.
    """
    place = folder / SEGMENTS / name
    unfinished = place.with_name(f"{_UNFINISHED}{name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        entries = [[path, *stamp, error] for path, stamp, error in files]
        (unfinished / _FILES).write_text(json.dumps(entries), encoding="utf-8")
        np.savez(unfinished / _CLIPS, **clips._asdict())
        for array_name, array in arrays.items():
            np.save(unfinished / f"{array_name}.npy", array, allow_pickle=False)
        # The manifest, which is written to the disk at once, must not name files that are not there yet.
        for path in (*unfinished.iterdir(), unfinished):
            _to_disk(path)
        if place.exists():
            shutil.rmtree(place)
        unfinished.rename(place)
        _to_disk(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return read_segment(place)


def remove_leftovers(folder: pathlib.Path, kept: Mapping[str, Any]) -> None:
    """Removes unfinished segments and those that do not count, with the writer's lock held."""
    for place in (folder / SEGMENTS).glob("*"):
        if place.name not in kept:
            shutil.rmtree(place, ignore_errors=True)
    for path in folder.glob(LEFTOVERS):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: pathlib.Path, shared: bool = False) -> Iterator[None]:
    """Holds the lock of an index, so that nobody else writes to it.

    Args:
      folder: The index; created if needed.
      shared: Whether other workers that also share may write, each its own segments.

    Raises:
      SearchError: If somebody else writes, the folder is read-only, or its file system has no locks.
    """
    with _opened(folder, LOCK) as file:
        try:
            _lock(folder, file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise SearchError(
                f"{folder} is being written by {owner}: wanted one writer at a time; wait until it has finished"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextlib.contextmanager
def committing(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other worker changes the manifest, and holds it.

    Raises:
      SearchError: If the folder is read-only, or its file system has no locks.
    """
    with _opened(folder, COMMIT) as file:
        _lock(folder, file, fcntl.LOCK_EX)
        yield


def _lock(folder: pathlib.Path, file: io.TextIOWrapper, how: int) -> None:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise SearchError(
            f"{folder} is on a file system without locks ({error.strerror}): wanted one with flock; mount it so, or "
            "index into a folder on a local disk"
        ) from error


def _opened(folder: pathlib.Path, lock: str) -> io.TextIOWrapper:
    """Opens a lock of an index, whose folder is created if needed."""
    try:
        (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
        return open(folder / lock, "a+", encoding="utf-8")
    except OSError as error:
        raise SearchError(
            f"{folder} cannot be written ({error.strerror}): wanted a folder that this user may change; searching it "
            "works, adding to it does not"
        ) from error


def _to_disk(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _damaged(path: pathlib.Path, why: object) -> SearchError:
    return SearchError(f"{path} is damaged ({why}); index the videos again, into another folder")
