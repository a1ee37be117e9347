"""Reads a folder of prepared videos: the encoded frames of every clip, in ArrayRecord shards.

`hbi_jax.data.prepare` writes the folder. Its manifest lists the clips and the checksum of each shard. The other files
form a TFDS data set, which other programs can read.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from hbi_jax.data.config import PrepareConfig
from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.video import Draws, VideoError, Window, sample_indices
from hbi_jax.fields import check, field

T = TypeVar("T")

MANIFEST = "manifest.jsonl"
# The feature of a record that training reads.
FRAMES = "frames"
# The quality that selects PNGs. A JPEG of quality 100 is still lossy and no closer to the original than one of 95.
LOSSLESS = 100

# Version of the format; increased when the meaning of the manifest or the records changes.
_FORMAT = 1
_AGAIN = "run the same `python -m hbi_jax.data prepare` again: it keeps complete shards and writes the others"


@dataclasses.dataclass(frozen=True)
class Settings(PrepareConfig):
    """The settings that determine the prepared frames of given videos.

    Raises:
      ConfigError: If a field is out of range.
    """

    frames_per_second: float = field(1.0, "Density of the grid of frames; all frames of the grid are kept.", above=0)
    square_pixels: bool = field(True, "Scale pictures with non-square pixels as a player does.")

    def __post_init__(self):
        check(self, "prepare")


@dataclasses.dataclass(frozen=True)
class PreparedClip:
    """The manifest's entry of a clip.

    Attributes:
      file: The path of the video file, relative to the folder of the videos.
      size: Size of the file in bytes when it was prepared; `None` if the file was missing.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      frames: Number of frames in the clip's record.
      unreadable: The reason why the clip has no record; `None` if it has one.
    """

    file: str
    size: int | None
    start: float | int | None
    end: float | int | None
    frames: int
    unreadable: str | None


@dataclasses.dataclass(frozen=True)
class Shard:
    """The manifest's entry of a finished file of records.

    Attributes:
      name: The name of the file.
      plan: Checksum of everything the shard was made from: settings, videos and texts.
      size: Size of the file in bytes.
      sha256: Checksum of the file.
      versions: Versions of the packages that wrote it.
      clips: The clips of the shard; the readable ones are its records, in this order.
    """

    name: str
    plan: str
    size: int
    sha256: str
    versions: Mapping[str, str]
    clips: Sequence[PreparedClip]

    @property
    def num_records(self) -> int:
        """The number of readable clips."""
        return sum(clip.unreadable is None for clip in self.clips)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The table of contents of a folder: a file of JSON lines, one for the folder and one for each finished shard.

    Attributes:
      settings: The settings of the frames.
      config: The configuration of the pass, for people to read.
      num_shards: Number of shards of the complete folder.
      shards: The finished shards.
    """

    settings: Settings
    config: Mapping[str, Any]
    num_shards: int
    shards: Sequence[Shard]

    @staticmethod
    def read(folder: pathlib.Path, name: str = MANIFEST) -> "Manifest":
        """Reads the manifest of a folder, or that of a worker, see `worker_manifest`.

        Raises:
          DataError: If the manifest is missing, damaged or of another format.
        """
        path = folder / name
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[
                :-1
            ]  # an interrupted write leaves a partial line after the last newline
            head, *entries = map(json.loads, lines)
            if head["format"] != _FORMAT:
                remedy = "prepare the videos again, into another folder"
                raise DataError(str(path), f"format {head['format']!r}", f"format {_FORMAT}", remedy)
            shards = [
                Shard(**{**entry, "clips": [PreparedClip(**clip) for clip in entry["clips"]]}) for entry in entries
            ]
            return Manifest(Settings(**head["settings"]), head["config"], head["num_shards"], shards)
        except OSError as error:
            raise _none(path, error) from error
        except DataError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            remedy = "delete the folder and prepare it again"
            raise DataError(str(path), f"a damaged file ({error!r})", "a manifest", remedy) from error

    def write(self, folder: pathlib.Path, name: str = MANIFEST) -> None:
        """Writes the manifest of a folder, or that of a worker, atomically."""
        head = {
            "format": _FORMAT,
            **{name: value for name, value in dataclasses.asdict(self).items() if name != "shards"},
        }
        # Several workers may begin a folder at once, on machines that give them the same number.
        unfinished = folder / f".{name}-{socket.gethostname()}-{os.getpid()}"
        unfinished.write_text("".join(map(_line, (head, *self.shards))), encoding="utf-8")
        unfinished.replace(folder / name)

    @staticmethod
    def append(folder: pathlib.Path, shard: Shard, name: str = MANIFEST) -> None:
        """Adds a finished shard to the manifest of a folder, or to that of a worker."""
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write(_line(shard))


def worker_manifest(worker: int | str, workers: int | str) -> str:
    """Returns the name of the manifest of a worker's shards, which lasts until all have finished; `"*"` matches any."""
    return f"manifest.{worker}-of-{workers}.jsonl"


def _line(entry: Mapping[str, Any] | Shard) -> str:
    return json.dumps(dataclasses.asdict(entry) if isinstance(entry, Shard) else entry) + "\n"


def _none(manifest: pathlib.Path, error: OSError) -> DataError:
    wanted = "a folder that `python -m hbi_jax.data prepare` has written"
    return DataError(str(manifest), error.strerror or str(error), wanted, "prepare it or correct the path")


def checksum(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative(path: pathlib.Path, videos: pathlib.Path) -> str:
    """Returns the path of a video file relative to the folder of the videos, as manifests state it."""
    return pathlib.PurePath(os.path.relpath(path, videos)).as_posix()


def relocated(split: Split, videos: pathlib.Path, folder: pathlib.Path) -> Split:
    """Returns a split whose paths point into a prepared folder instead of the folder of the videos.

    Raises:
      DataError: If the folder is not a prepared folder.
    """
    try:
        (folder / MANIFEST).stat()
    except OSError as error:
        raise _none(folder / MANIFEST, error) from error
    moved = (dataclasses.replace(r, path=folder / relative(r.path, videos)) for r in split.records)
    return dataclasses.replace(split, records=tuple(moved))


def window(record: Record) -> Window:
    """Returns the start and end of a record's clip."""
    return record.start, record.end


class _File(NamedTuple):
    """The description of a file that spares `ArrayRecordDataSource` from opening all files first."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Prepared:
    """The clips of a folder of prepared videos; safe to share among threads, copied to worker processes.

    A video is identified by the path that its file would have inside the folder (see `relocated`).
    """

    def __init__(self, folder: str | pathlib.Path):
        """Reads the manifest and checks the size of every shard; reads no frames yet.

        Args:
          folder: The prepared folder.

        Raises:
          DataError: If the folder is not a prepared folder, is unfinished, or lacks a shard or a part of one.
        """
        self._folder = pathlib.Path(folder)
        manifest = Manifest.read(self._folder)
        self._settings, self._shards = manifest.settings, manifest.shards
        if len(manifest.shards) < manifest.num_shards:
            got, wanted = f"{len(manifest.shards)} finished shards", f"{manifest.num_shards}"
            raise DataError(f"prepared videos {self._folder}", got, wanted, _AGAIN)
        for path, shard in self._files():
            size = path.stat().st_size if path.exists() else None
            if size != shard.size:
                got = "no such file" if size is None else f"{size} bytes"
                raise DataError(f"prepared shard {path}", got, f"{shard.size} bytes", _AGAIN)
        counts = [(str(path), shard.num_records) for path, shard in self._files()]
        self._records = ArrayRecordDataSource([_File(path, 0, count, count) for path, count in counts])
        # For each clip, the number of its record or the reason why it has none.
        self._clips: dict[tuple[str, Window], int | str] = {}
        number = 0
        for clip in (clip for shard in self._shards for clip in shard.clips):
            self._clips[clip.file, (clip.start, clip.end)] = clip.unreadable or number
            number += clip.unreadable is None

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, (self._folder,)

    def checksums(self) -> list[str]:
        """Returns the checksum of every shard."""
        return [shard.sha256 for shard in self._shards]

    @staticmethod
    def holding(path: pathlib.Path) -> "Prepared | None":
        """Returns the prepared folder that contains a path; `None` if there is none.

        Raises:
          DataError: As in the constructor.
        """
        folder = next((parent for parent in path.parents if (parent / MANIFEST).exists()), None)
        return folder and Prepared(folder)

    def check(self, split: Split, image_size: int, frames_per_second: float, square_pixels: bool = True) -> None:
        """Raises DataError if the folder does not suit a split and its settings.

        Args:
          split: The split whose clips will be read.
          image_size: Side of the square frames that will be read, in pixels.
          frames_per_second: Density of the grid that frames will be sampled from.
          square_pixels: Whether pictures with non-square pixels should be scaled.

        Raises:
          DataError: If the folder was prepared with another density, smaller frames or another `square_pixels`, or
            lacks clips of the split.
        """
        field, made = f"prepared videos {self._folder}", self._settings
        if made.frames_per_second != frames_per_second:
            got, wanted = f"frames_per_second={made.frames_per_second}", f"{frames_per_second}"
            raise DataError(
                field, got, wanted, "set data.frames_per_second to the folder's value or prepare the videos again"
            )
        if made.square_pixels != square_pixels:
            got, wanted = f"square_pixels={made.square_pixels}", f"{square_pixels}"
            raise DataError(
                field, got, wanted, "set data.square_pixels to the folder's value or prepare the videos again"
            )
        if made.short_side < image_size:
            got, wanted = f"short_side={made.short_side}", f"at least the image_size of {image_size}"
            raise DataError(field, got, wanted, "prepare the videos again with a larger data.prepare.short_side")
        lacking = [r for r in split.videos if (relative(r.path, self._folder), window(r)) not in self._clips]
        if lacking:
            count, first = f"{len(lacking)} of {split.num_videos}", lacking[0]
            got = f"no frames of {count} videos of split {split.name!r}, such as {first.video_id!r} ({first.path})"
            remedy = "choose the folder of this data set, or prepare it again if the annotations have changed"
            raise DataError(field, got, "all of them", remedy)

    def map_windows(
        self,
        keep: Callable[[Image.Image], T],
        path: str | pathlib.Path,
        windows: Sequence[Window],
        max_frames: int,
        frames_per_second: float = 1.0,
        timeout: float = 0.0,
        square_pixels: bool = True,
        draws: Sequence[Draws | None] | None = None,
    ) -> list[list[T] | VideoError]:
        """Applies a function to the prepared frames that `hbi_jax.data.video.map_windows` would choose from the file.

        Args:
          keep: Converts an RGB picture to the value to keep.
          path: The path that the video file would have inside the folder.
          windows: The clips of the file.
          max_frames: Maximum number of frames per clip.
          frames_per_second, timeout, square_pixels: Ignored: the folder fixes the grid and the pixels (see `check`),
            and no video is decoded.
          draws: As in `hbi_jax.data.video.map_windows`.

        Returns:
          For each clip the values of `keep` for its frames, or the reason why there are none.

        Raises:
          DataError: If a shard is damaged.
        """
        found: list[list[T] | VideoError] = []
        for limits, drawn in zip(windows, draws or [None] * len(windows), strict=True):
            record = self._clips[relative(pathlib.Path(path), self._folder), limits]
            found.append(
                VideoError(path, record) if isinstance(record, str) else self._kept(keep, record, max_frames, drawn)
            )
        return found

    def _kept(self, keep: Callable[[Image.Image], T], record: int, max_frames: int, draws: Draws | None) -> list[T]:
        """Returns the values of `keep` for the sampled frames of a record."""
        # This import takes most of a second, which processes that read video files should not pay.
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            example = tf_example_pb2.Example.FromString(self._records[record])
        except (RuntimeError, IndexError) as error:
            for path, shard in self._files():
                if record < shard.num_records:
                    got, wanted = f"sha256 {checksum(path)} ({error})", f"sha256 {shard.sha256}"
                    raise DataError(f"prepared shard {path}", got, wanted, _AGAIN) from error
                record -= shard.num_records
            raise
        encoded = example.features.feature[FRAMES].bytes_list.value
        # The record holds the whole grid, so sampling only chooses among its frames.
        chosen = sample_indices(len(encoded), 1.0, max_frames, draws=draws).tolist()
        return [keep(Image.open(io.BytesIO(encoded[number]))) for number in chosen]

    def _files(self) -> list[tuple[pathlib.Path, Shard]]:
        return [(self._folder / shard.name, shard) for shard in self._shards]
