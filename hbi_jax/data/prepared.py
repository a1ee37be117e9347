"""A folder of prepared videos, as training reads it: the encoded frames of every clip, in ArrayRecord shards.

`hbi_jax.data.prepare` writes it. The manifest says what is where, with the checksum of each shard; the rest of the
folder is a TFDS data set, for others to read.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image

from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.video import VideoError, Window, sample_indices

T = TypeVar("T")

MANIFEST = "manifest.jsonl"
# The feature of a record that training reads.
FRAMES = "frames"
# The quality at which frames are PNGs: a JPEG of quality 100 is not without loss, and no closer than one of 95.
LOSSLESS = 100

# Another one means another meaning of the manifest or the records.
_FORMAT = 1
_AGAIN = "run the same `python -m hbi_jax.data prepare` again: it keeps what is whole and makes the rest"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What prepared frames depend on, beside the videos.

    Attributes:
      frames_per_second: Density of the grid of frames, all of which are kept.
      short_side: Short side of the frames, in pixels; smaller videos keep their size.
      quality: Of the JPEGs, in 1..99; `LOSSLESS` for PNGs.
      square_pixels: Whether pictures whose pixels are not square are scaled as a player does it.

    Raises:
      ValueError: If one of them is out of range.
    """

    frames_per_second: float | int = 1.0
    short_side: int = 224
    quality: int = 95
    square_pixels: bool = True

    def __post_init__(self):
        if not self.frames_per_second > 0 or self.short_side < 1 or not 1 <= self.quality <= 100:
            raise ValueError(
                f"frames_per_second, short_side, quality: got {self.frames_per_second}, {self.short_side}, "
                f"{self.quality}, wanted > 0, >= 1 and 1 to 100."
            )


@dataclasses.dataclass(frozen=True)
class PreparedClip:
    """What the manifest says of a clip.

    Attributes:
      file: The video file, as a path from the folder of the videos.
      size: Its size in bytes when it was prepared; `None` if there was no file.
      start, end: The clip, in seconds; `None` means the beginning and the end of the file.
      frames: How many frames its record has.
      unreadable: Why it has no record; `None` if it has one.
    """

    file: str
    size: int | None
    start: float | int | None
    end: float | int | None
    frames: int
    unreadable: str | None


@dataclasses.dataclass(frozen=True)
class Shard:
    """What the manifest says of a file of records, once that is finished.

    Attributes:
      name: The file.
      plan: Checksum of all that it was to be made from.
      size: Its size in bytes.
      sha256: Its checksum.
      versions: Those of the packages that made it.
      clips: Its clips; those that can be read are its records, in this order.
    """

    name: str
    plan: str
    size: int
    sha256: str
    versions: Mapping[str, str]
    clips: Sequence[PreparedClip]

    @property
    def num_records(self) -> int:
        """How many of its clips can be read."""
        return sum(clip.unreadable is None for clip in self.clips)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder holds: a file of JSON lines, the first about the whole, then one for each finished shard.

    Attributes:
      settings: How the frames are made.
      config: The configuration that they are made with, for people to read.
      num_shards: How many shards there are when all are finished.
      shards: Those that are.
    """

    settings: Settings
    config: Mapping[str, Any]
    num_shards: int
    shards: Sequence[Shard]

    @staticmethod
    def read(folder: pathlib.Path) -> "Manifest":
        """Reads the manifest of a folder.

        Raises:
          DataError: If there is none, or it is none of this format.
        """
        path = folder / MANIFEST
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is unfinished
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

    def write(self, folder: pathlib.Path) -> None:
        """Writes the manifest of a folder, whole or not at all."""
        head = {
            "format": _FORMAT,
            **{name: value for name, value in dataclasses.asdict(self).items() if name != "shards"},
        }
        unfinished = folder / f".{MANIFEST}-{os.getpid()}"
        unfinished.write_text("".join(map(_line, (head, *self.shards))), encoding="utf-8")
        unfinished.replace(folder / MANIFEST)

    @staticmethod
    def append(folder: pathlib.Path, shard: Shard) -> None:
        """Adds a finished shard to the manifest of a folder."""
        with open(folder / MANIFEST, "a", encoding="utf-8") as file:
            file.write(_line(shard))


def _line(entry: Mapping[str, Any] | Shard) -> str:
    return json.dumps(dataclasses.asdict(entry) if isinstance(entry, Shard) else entry) + "\n"


def _none(manifest: pathlib.Path, error: OSError) -> DataError:
    wanted = "a folder that `python -m hbi_jax.data prepare` has written"
    return DataError(str(manifest), error.strerror or str(error), wanted, "prepare it or correct the path")


def checksum(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative(path: pathlib.Path, videos: pathlib.Path) -> str:
    """A video file as manifests name it: from the folder of the videos."""
    return pathlib.PurePath(os.path.relpath(path, videos)).as_posix()


def relocated(split: Split, videos: pathlib.Path, folder: pathlib.Path) -> Split:
    """A split with its video files in a prepared folder instead of that of the videos.

    Raises:
      DataError: If it is no prepared folder.
    """
    try:
        (folder / MANIFEST).stat()
    except OSError as error:
        raise _none(folder / MANIFEST, error) from error
    moved = (dataclasses.replace(r, path=folder / relative(r.path, videos)) for r in split.records)
    return dataclasses.replace(split, records=tuple(moved))


def window(record: Record) -> Window:
    """The clip of its file that a record is about."""
    return record.start, record.end


class _File(NamedTuple):
    """What `ArrayRecordDataSource` wants to know of a file so as not to open all of them first."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Prepared:
    """The clips of a folder of prepared videos. Any number of threads may use one; a worker process gets a copy.

    A video file has the path here that it would have if it were in the folder (`relocated`).
    """

    def __init__(self, folder: str | pathlib.Path):
        """Reads the manifest and looks whether all shards are there; reads no frame yet.

        Args:
          folder: The prepared folder.

        Raises:
          DataError: If the folder is none, is not finished, or lacks a shard or a part of one.
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
        # Of each clip, the number of its record or the reason why it has none.
        self._clips: dict[tuple[str, Window], int | str] = {}
        number = 0
        for clip in (clip for shard in self._shards for clip in shard.clips):
            self._clips[clip.file, (clip.start, clip.end)] = clip.unreadable or number
            number += clip.unreadable is None

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, (self._folder,)

    @staticmethod
    def holding(path: pathlib.Path) -> "Prepared | None":
        """The prepared folder that a video file is in; `None` if it is in none.

        Raises:
          DataError: As the constructor.
        """
        folder = next((parent for parent in path.parents if (parent / MANIFEST).exists()), None)
        return folder and Prepared(folder)

    def check(self, split: Split, image_size: int, frames_per_second: float, square_pixels: bool = True) -> None:
        """Refuses what the folder was not prepared for.

        Args:
          split: The records whose clips will be read.
          image_size: Side of the square frames that will be wanted, in pixels.
          frames_per_second: Density of the grid that they will be sampled from.
          square_pixels: Whether pictures whose pixels are not square are to be scaled.

        Raises:
          DataError: If the folder was prepared with another density or smaller frames, otherwise scaled, or lacks
            clips of the split.
        """
        field, made = f"prepared videos {self._folder}", self._settings
        if made.frames_per_second != frames_per_second:
            got, wanted = f"frames_per_second={made.frames_per_second}", f"{frames_per_second}"
            raise DataError(field, got, wanted, "set data.frames_per_second so or prepare the videos again")
        if made.square_pixels != square_pixels:
            got, wanted = f"square_pixels={made.square_pixels}", f"{square_pixels}"
            raise DataError(field, got, wanted, "set data.square_pixels so or prepare the videos again")
        if made.short_side < image_size:
            got, wanted = f"short_side={made.short_side}", f"at least the image_size of {image_size}"
            raise DataError(field, got, wanted, "prepare the videos again with a larger data.prepare.short_side")
        lacking = [r for r in split.videos if (relative(r.path, self._folder), window(r)) not in self._clips]
        if lacking:
            count, first = f"{len(lacking)} of {split.num_videos}", lacking[0]
            got = f"nothing of {count} videos of split {split.name!r}, such as {first.video_id!r} ({first.path})"
            remedy = "choose the folder of this data set, or prepare it anew where the annotations have changed"
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
    ) -> list[list[T] | VideoError]:
        """What `hbi_jax.data.video.map_windows` does, with the prepared frames of the same numbers.

        Args:
          keep: Makes of an RGB picture what is wanted of it.
          path: The video file, as if it were in the folder.
          windows: The clips of it.
          max_frames: Most frames of a clip.
          frames_per_second, timeout, square_pixels: Of no effect: grid and pixels are the folder's (`check` has
            looked), nothing is decoded.

        Returns:
          For each clip what `keep` gave for its frames, or why there are none.

        Raises:
          DataError: If a shard is damaged.
        """
        found: list[list[T] | VideoError] = []
        for limits in windows:
            record = self._clips[relative(pathlib.Path(path), self._folder), limits]
            found.append(VideoError(path, record) if isinstance(record, str) else self._kept(keep, record, max_frames))
        return found

    def _kept(self, keep: Callable[[Image.Image], T], record: int, max_frames: int) -> list[T]:
        """What a function gives for the frames of a record that sampling chooses."""
        # It takes most of a second, for which processes that read video files should not wait.
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
        # The whole grid is there; what is left of sampling is to choose among its frames.
        chosen = sample_indices(len(encoded), 1.0, max_frames).tolist()
        return [keep(Image.open(io.BytesIO(encoded[number]))) for number in chosen]

    def _files(self) -> list[tuple[pathlib.Path, Shard]]:
        return [(self._folder / shard.name, shard) for shard in self._shards]
