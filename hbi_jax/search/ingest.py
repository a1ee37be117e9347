"""Reads video files for an index: what is new, in which shards, and the encoded clips of a shard."""

import collections
import concurrent.futures
import errno
import itertools
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hbi_jax.commands.progress import Progress
from hbi_jax.data.datasets.videos import list_videos
from hbi_jax.data.decode import VideoError
from hbi_jax.search.clips import Clips, ClipSettings, Span, Stamp, read_clips
from hbi_jax.search.config import SearchError
from hbi_jax.search.encoder import BATCH, Encoder
from hbi_jax.search.store import ClipTable, File
from hbi_jax.tasks.inference import Paths, several

# A shard holds at most this many files, and ends before this many bytes. It is what one worker makes at a time, and
# what an interruption costs.
_FILES_PER_SHARD, _BYTES_PER_SHARD = 256, 2**28


class Listing(NamedTuple):
    """The video files that paths lead to.

    Attributes:
      files: Their stamps by absolute path, in order.
      folders: The folders among the paths: what is below them and no longer there is dropped.
      missing: The errors of the paths that cannot be read.
    """

    files: Mapping[str, Stamp]
    folders: Sequence[str]
    missing: Mapping[str, OSError]

    @property
    def reasons(self) -> dict[str, str]:
        """Why some paths cannot be read."""
        return {path: f"{path}: {error.strerror}" for path, error in self.missing.items()}

    def gone(self, known: Iterable[str]) -> set[str]:
        """Returns the known files below the folders that are no longer there.

        A file that cannot be read, and what is below a folder that cannot be listed, may be there.
        """
        absent = (FileNotFoundError, NotADirectoryError)
        unknown = (path for path, error in self.missing.items() if not isinstance(error, absent))
        below, hidden = (tuple(os.path.join(path, "") for path in paths) for paths in (self.folders, unknown))
        paths = {path: os.path.join(path, "") for path in known if path not in self.files}
        return {path for path, place in paths.items() if place.startswith(below) and not place.startswith(hidden)}


def list_files(paths: Paths) -> Listing:
    """Lists video files: those that are named, and those in folders, at any depth.

    Raises:
      SearchError: If nothing is named, or a folder holds no video.
    """
    named = [os.path.abspath(os.path.expanduser(os.fspath(path))) for path in several(paths)]
    if not named:
        raise SearchError("videos: got none, wanted files or folders; name some")
    found, folders, missing = [], [], {}
    for path in named:
        if not os.path.isdir(path):
            found.append(path)
            continue
        unlisted: list[OSError] = []
        below = [str(video) for video in list_videos(pathlib.Path(path), unlisted=unlisted.append)]
        missing |= {error.filename: error for error in unlisted}
        if not below and not unlisted:
            raise SearchError(
                f"folder {path}: got no video in it, wanted one or more; correct the path (what is in the index of "
                "this folder stays there)"
            )
        folders.append(path)
        found += below
    files = {}
    for path in sorted(dict.fromkeys(found)):
        try:
            stamp = Stamp.of(path)
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            files[path] = stamp
        except OSError as error:
            missing[path] = error
    return Listing(files, folders, missing)


def shards(files: Mapping[str, Stamp]) -> list[list[tuple[str, Stamp]]]:
    """Returns files in shards; a function of the files alone, so that all workers have the same."""
    out: list[list[tuple[str, Stamp]]] = []
    size = 0
    for path, stamp in files.items():
        if not out or len(out[-1]) == _FILES_PER_SHARD or size + stamp.size > _BYTES_PER_SHARD:
            out.append([])
            size = 0
        out[-1].append((path, stamp))
        size += stamp.size
    return out


class Encoded(NamedTuple):
    """The content of a segment, see `hbi_jax.search.store.write_segment`."""

    files: Sequence[File]
    clips: ClipTable
    arrays: Mapping[str, np.ndarray]


def encode_files(
    encoder: Encoder, files: Sequence[tuple[str, Stamp]], progress: Progress, num_threads: int | None = None
) -> Encoded:
    """Reads and encodes the clips of some files. A file that cannot be read, or changes meanwhile, gets its error.

    An error of the system, or a change, may pass and leave the file as it was listed. Such a file gets a stamp that no
    file has, so that it is read again.

    Args:
      encoder: The model.
      files: The files, with their stamps when they were listed.
      progress: Counts kilobytes of files that are done.
      num_threads: Files that are decoded at a time; None: one for each core, at most 8.
    """
    tables: list[list[np.ndarray]] = [[] for _ in ClipTable._fields]
    parts, waiting, errors, passing = [], [], {}, set()

    def flush() -> None:
        if waiting:
            frames, mask = (np.concatenate([getattr(clips, name) for clips in waiting]) for name in ("frames", "mask"))
            parts.append(encoder.rows(encoder.encode_clips(frames, mask)))
            waiting.clear()

    for number, found, is_last in _read_all([path for path, _ in files], encoder.clips, num_threads):
        path, stamp = files[number]
        if isinstance(found, Exception):
            errors[number] = str(found) if isinstance(found, VideoError) else f"{path}: {found}"
            if isinstance(found, OSError) or isinstance(found.__cause__, OSError):
                passing.add(number)
        else:
            row = np.full(len(found.start), number, np.int32)
            for column, values in zip(tables, (row, found.start, found.end, found.times), strict=True):
                column.append(values)
            waiting.append(found)
            if sum(len(clips.start) for clips in waiting) >= BATCH:
                flush()
        if is_last:
            if number not in errors and not _is_unchanged(path, stamp):
                errors[number] = f"{path}: changed while it was read; index it again when it is complete"
                passing.add(number)
            progress.update(max(1, stamp.size // 1000))
    flush()
    f = encoder.clips.num_frames
    empty = np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros((0, f), np.float32)
    table = ClipTable(*(np.concatenate([none, *column]) for none, column in zip(empty, tables, strict=True)))
    # Clips that were read before an error are left out: a file is in the index as a whole or not at all.
    good = ~np.isin(table.source, list(errors))
    arrays = {name: np.concatenate([part[name] for part in parts])[good] for name in (parts[0] if parts else ())}
    again = Stamp(-1, time.time_ns())
    entries = [
        File(path, again if number in passing else stamp, errors.get(number))
        for number, (path, stamp) in enumerate(files)
    ]
    return Encoded(entries, ClipTable(*(column[good] for column in table)), arrays)


def _is_unchanged(path: str, stamp: Stamp) -> bool:
    try:
        return Stamp.of(path) == stamp
    except OSError:
        return False


def _read_all(
    paths: Sequence[str], settings: ClipSettings, num_threads: int | None
) -> Iterator[tuple[int, Clips | Exception, bool]]:
    """Yields the number of each file with its next clips, or with its error, and whether these are its last."""
    num_threads = num_threads or min(8, os.cpu_count() or 1)
    numbers = iter(enumerate(paths))
    waiting: collections.deque[tuple[int, concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        try:
            while True:
                for number, path in itertools.islice(numbers, num_threads + 2 - len(waiting)):
                    waiting.append((number, pool.submit(_read, path, settings, None)))
                if not waiting:
                    return
                number, future = waiting.popleft()
                found, later = future.result()
                if later:
                    waiting.appendleft((number, pool.submit(_read, paths[number], settings, later)))
                yield number, found, not later
        finally:
            for _, future in waiting:
                future.cancel()


def _read(path: str, settings: ClipSettings, wanted: Sequence[Span] | None) -> tuple[Clips | Exception, Sequence[Span]]:
    try:
        return read_clips(path, settings, wanted)
    except (VideoError, OSError) as error:
        return error, ()
