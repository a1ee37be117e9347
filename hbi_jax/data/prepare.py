"""Decodes the videos of a data set once and writes their frames to a folder that training reads instead.

A TFDS builder writes its shards at the end, in one process, and writes none if it is stopped earlier. A pass of hours
has to use all cores and to survive an interruption, so this module writes the shards itself, one after the other, each
under a temporary name until it is complete. TFDS declares the features, serialises the records and writes the metadata,
and `tfds.builder_from_directory` reads the folder. None of this needs TensorFlow.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import logging
import math
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from hbi_jax.commands.progress import Progress
from hbi_jax.data.datasets.records import DataError, Split
from hbi_jax.data.decode import TIMEOUT
from hbi_jax.data.prepared import (
    FRAMES,
    LOSSLESS,
    MANIFEST,
    Manifest,
    PreparedClip,
    Settings,
    Shard,
    checksum,
    relative,
    window,
    worker_manifest,
)
from hbi_jax.data.source import check_unreadable
from hbi_jax.data.video import VideoError, Window, map_windows
from hbi_jax.version import __version__

_log = logging.getLogger(__name__)

# Names for TFDS. All videos form one TFDS split; the annotations define the training and test splits.
_NAME, _SPLIT, _VERSION = "hbi_videos", "videos", "1.0.0"
# Maximum videos per shard, and minimum number of shards, so that an interruption costs little on small data sets too.
_VIDEOS_PER_SHARD, _LEAST_SHARDS = 256, 16
# Number of videos per process that may be decoded ahead of the one that is written next.
_AHEAD = 4
# Maximum frames per clip: more than any real clip has, but a limit for what a damaged header may promise.
_MAX_FRAMES = 2**20
# Groups of one record allow random access; encoded pictures do not compress further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class Summary(NamedTuple):
    """The contents of a folder after a pass.

    Attributes:
      clips, frames: Numbers of clips and frames.
      size: Size of all shards, in bytes.
      shards: Number of shards.
      kept: Number of shards that an earlier pass had written.
      unreadable: For each split, by video id, the reason why a video has no frames.
      missing: Number of shards that other workers have not written yet.
    """

    clips: int
    frames: int
    size: int
    shards: int
    kept: int
    unreadable: Mapping[str, Mapping[str, str]]
    missing: int = 0


class _Video(NamedTuple):
    """A video file: its path, its name in the manifest, its size in bytes, and the texts of each of its clips."""

    path: pathlib.Path
    file: str
    size: int | None
    texts: Mapping[Window, Sequence[Mapping[str, str]]]


class _Record(NamedTuple):
    """The result for a clip: a serialised example and its number of frames, or the reason why there is none."""

    example: bytes = b""
    frames: int = 0
    unreadable: str | None = None


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """Returns the features of a record."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "file": text(doc="The path of the video file, relative to the folder of the videos."),
            "start": tfds.features.Scalar(np.float64, doc="Beginning of the clip, in seconds."),
            "end": tfds.features.Scalar(
                np.float64, doc="End of the clip, in seconds; infinite means the end of the file."
            ),
            FRAMES: tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            "texts": tfds.features.Sequence(
                {name: text() for name in ("split", "video_id", "text", "answer")},
                doc="Captions of the clip, or questions with their answers.",
            ),
        }
    )


def prepare(
    splits: Sequence[Split],
    videos: str | pathlib.Path,
    folder: str | pathlib.Path,
    settings: Settings,
    max_unreadable_rate: float | int = 0.01,
    video_timeout: float | int = TIMEOUT,
    num_processes: int | None = None,
    config: Mapping[str, Any] | None = None,
    shown: bool = True,
    worker: int = 0,
    workers: int = 1,
) -> Summary:
    """Writes the frames of all clips of some splits; resumes an interrupted pass.

    Each file is decoded once, no matter how many clips and texts refer to it. A complete shard that was made from the
    same videos, texts and settings is kept.

    Args:
      splits: The splits.
      videos: The folder of the video files.
      folder: The folder for the shards; created if missing.
      settings: The settings of the frames.
      max_unreadable_rate: Largest share of each split's videos, in [0, 1], that may be unreadable.
      video_timeout: Maximum processor time per file, in seconds; 0 means no limit.
      num_processes: Number of decoding processes; `None` uses one per core, 0 decodes in this process.
      config: The configuration, stored in the manifest for people to read.
      shown: Whether to report progress.
      worker, workers: This process writes the shards s with s mod workers = worker. Until the last worker has finished,
        the folder cannot be read.

    Returns:
      The contents of the folder; of what is finished if other workers have not finished.

    Raises:
      DataError: If the folder holds other files, too many videos are unreadable, or a decoding process dies. Finished
        shards are kept.
      OSError: If the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    parts = _shards(_videos(splits, pathlib.Path(videos)))
    plans = {name: _plan(settings, part) for name, part in parts.items()}
    mine = list(parts)[worker::workers]
    own = MANIFEST if workers == 1 else worker_manifest(worker, workers)
    found = _claim(folder, settings)
    finished = {s.name: s for s in found if plans.get(s.name) == s.plan and s.name in mine and _is_whole(folder, s)}
    if workers > 1 and not (folder / MANIFEST).exists():
        Manifest(settings, config or {}, len(parts), []).write(folder)
    Manifest(settings, config or {}, len(parts), list(finished.values())).write(folder, own)
    unreadable = _Unreadable(splits, max_unreadable_rate)
    for name, shard in finished.items():
        unreadable.note(parts[name], shard.clips)
    kept, todo = len(finished), {name: parts[name] for name in mine if name not in finished}
    if kept:
        _log.info("%d of %d shards are already complete", kept, len(mine))
    if num_processes is None:
        num_processes = len(os.sched_getaffinity(0))
    with (
        _pool(num_processes) as pool,
        Progress(sum(map(len, todo.values())), "prepare videos", shown=shown) as progress,
    ):
        decoding = (
            (video, pool.submit(_decode, settings, video_timeout, video))
            for video in itertools.chain.from_iterable(todo.values())
        )
        results = _in_order(decoding, _AHEAD * max(1, num_processes))
        for name, part in todo.items():
            clips = []
            with _writer(folder / name) as write:
                for video in part:
                    for (start, end), record in zip(video.texts, next(results), strict=True):
                        if record.unreadable is None:
                            write(record.example)
                        clips.append(PreparedClip(video.file, video.size, start, end, record.frames, record.unreadable))
                    unreadable.note([video], clips[-len(video.texts) :])
                    progress.update()
            path = folder / name
            finished[name] = Shard(name, plans[name], path.stat().st_size, checksum(path), _versions(), clips)
            Manifest.append(folder, finished[name], own)
    if workers > 1:
        finished |= _of_others(folder, {name: plan for name, plan in plans.items() if name not in finished})
        for name in finished.keys() - set(mine):
            unreadable.note(parts[name], finished[name].clips)
    shards = [finished[name] for name in parts if name in finished]
    if len(shards) == len(parts):
        Manifest(settings, config or {}, len(parts), shards).write(folder)
        _write_metadata(folder, shards)
        old = (folder / shard.name for shard in found if shard.name not in parts)
        for path in (*old, *folder.glob(f".{_NAME}-*"), *folder.glob(worker_manifest("*", "*"))):
            path.unlink(missing_ok=True)
    return Summary(
        clips=sum(shard.num_records for shard in shards),
        frames=sum(clip.frames for shard in shards for clip in shard.clips),
        size=sum(shard.size for shard in shards),
        shards=len(shards),
        kept=kept,
        unreadable=unreadable.reasons,
        missing=len(parts) - len(shards),
    )


class _Unreadable:
    """Collects the unreadable videos of each split and raises if there are too many."""

    def __init__(self, splits: Sequence[Split], max_rate: float | int):
        self.reasons: dict[str, dict[str, str]] = {split.name: {} for split in splits}
        self._splits = {split.name: split for split in splits}
        self._max_rate = max_rate

    def note(self, videos: Sequence[_Video], clips: Sequence[PreparedClip]) -> None:
        """Records the unreadable ones among all clips of some videos.

        Raises:
          DataError: If too many videos of a split are unreadable.
        """
        about = ((video, texts) for video in videos for texts in video.texts.values())
        for (video, texts), clip in zip(about, clips, strict=True):
            if clip.unreadable is None:
                continue
            for text in texts:
                reasons = self.reasons[text["split"]]
                reasons[text["video_id"]] = str(VideoError(video.path, clip.unreadable))
                check_unreadable(self._splits[text["split"]], reasons, self._max_rate)


def _videos(splits: Sequence[Split], folder: pathlib.Path) -> list[_Video]:
    """Returns the video files of some splits, in order of appearance."""
    texts: dict[pathlib.Path, dict[Window, list[dict[str, str]]]] = {}
    for split in splits:
        for record in split.records:
            entry = {
                "split": split.name,
                "video_id": record.video_id,
                "text": record.text,
                "answer": record.answer or "",
            }
            texts.setdefault(record.path, {}).setdefault(window(record), []).append(entry)
    return [_Video(path, relative(path, folder), _size(path), clips) for path, clips in texts.items()]


def _size(path: pathlib.Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _shards(videos: Sequence[_Video]) -> dict[str, Sequence[_Video]]:
    """Returns the videos of each shard by name; the number of shards depends only on the number of videos."""
    count = min(len(videos), max(_LEAST_SHARDS, math.ceil(len(videos) / _VIDEOS_PER_SHARD)))
    bounds = [len(videos) * number // count for number in range(count + 1)]
    return {
        f"{_NAME}-{_SPLIT}.array_record-{number:05d}-of-{count:05d}": videos[bounds[number] : bounds[number + 1]]
        for number in range(count)
    }


def _plan(settings: Settings, videos: Sequence[_Video]) -> str:
    """Returns the checksum of everything a shard is made from: settings, videos and texts."""
    parts = [[video.file, video.size, list(video.texts.items())] for video in videos]
    # Use a fixed order, so that the checksum does not depend on the order of the declaration.
    names = ("frames_per_second", "short_side", "quality", "square_pixels")
    made_by = {name: getattr(settings, name) for name in names}
    return hashlib.sha256(json.dumps([made_by, parts]).encode()).hexdigest()


def _claim(folder: pathlib.Path, settings: Settings) -> Sequence[Shard]:
    """Creates the folder if needed and returns its finished shards.

    Raises:
      DataError: If the folder holds other files or was begun with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        # Another worker may be about to write the manifest.
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            wanted = "an empty folder or a folder of prepared videos"
            raise DataError(f"folder {folder}", f"files but no {MANIFEST}", wanted, "choose another")
        return ()
    manifest = Manifest.read(folder)
    for name, value in dataclasses.asdict(settings).items():
        made = getattr(manifest.settings, name)
        if value != made:
            remedy = "use that value, choose another folder, or delete this one"
            raise DataError(
                f"prepared videos {folder}, {name}", f"{value}", f"{made}, with which the folder was begun", remedy
            )
    return [*manifest.shards, *_shards_of_workers(folder)]


def _shards_of_workers(folder: pathlib.Path) -> list[Shard]:
    """Returns the shards that workers have finished in a folder that is not complete."""
    found = []
    for path in sorted(folder.glob(worker_manifest("*", "*"))):
        try:
            found += Manifest.read(folder, path.name).shards
        except DataError:
            if path.exists():
                raise
            # Another worker has just completed the folder.
    return found


def _of_others(folder: pathlib.Path, plans: Mapping[str, str]) -> dict[str, Shard]:
    """Returns the finished ones of some shards, which other workers make, by name."""
    found = [*Manifest.read(folder).shards, *_shards_of_workers(folder)]
    return {s.name: s for s in found if plans.get(s.name) == s.plan and _size(folder / s.name) == s.size}


def _is_whole(folder: pathlib.Path, shard: Shard) -> bool:
    path = folder / shard.name
    return _size(path) == shard.size and checksum(path) == shard.sha256


@contextlib.contextmanager
def _writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that adds records to a file; the file gets its final name only when it is complete."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")

    def tried(call: Callable[..., None], *args: bytes) -> None:
        try:
            call(*args)
        except RuntimeError as error:
            raise OSError(f"{path}: cannot be written ({error}); free some space or choose another folder") from error

    writer = ArrayRecordWriter(str(unfinished), _WRITER_OPTIONS)
    try:
        yield functools.partial(tried, writer.write)
        tried(writer.close)
        unfinished.replace(path)
    finally:
        if writer.is_open():
            writer.close()
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _pool(num_processes: int) -> Iterator[concurrent.futures.Executor]:
    """Yields a pool of processes (for 0: of one thread) that ends with this process, however this process ends."""
    if num_processes:
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(num_processes, context, _start_process)
    else:
        pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    # Ctrl-C reaches all processes of a terminal; the main one handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _in_order(
    decoding: Iterable[tuple[_Video, concurrent.futures.Future[list[_Record]]]], ahead: int
) -> Iterator[list[_Record]]:
    """Yields the records of each video in order, with at most `ahead` videos in flight."""
    decoding, waiting = iter(decoding), collections.deque()
    while True:
        waiting.extend(itertools.islice(decoding, ahead - len(waiting)))
        if not waiting:
            return
        try:
            records = waiting[0][1].result()
        except concurrent.futures.BrokenExecutor as error:
            names = ", ".join(video.file for video, future in waiting if not future.done() or future.exception())
            remedy = "remove the video that causes it from the lists; finished shards are kept"
            raise DataError("videos", f"a decoding process that died at one of {names}", "frames", remedy) from error
        waiting.popleft()
        yield records


def _decode(settings: Settings, timeout: float | int, video: _Video) -> list[_Record]:
    """Returns the records of all clips of a video file."""
    keep = functools.partial(_stored, settings)
    grid = _MAX_FRAMES, settings.frames_per_second, timeout, settings.square_pixels
    found = map_windows(keep, video.path, list(video.texts), *grid)
    records = []
    for ((start, end), texts), frames in zip(video.texts.items(), found, strict=True):
        if isinstance(frames, VideoError):
            records.append(_Record(unreadable=frames.reason))
            continue
        example = {
            "file": video.file,
            "start": float(start or 0),
            "end": math.inf if end is None else float(end),
            FRAMES: frames,
            "texts": texts,
        }
        records.append(_Record(features().serialize_example(features().encode_example(example)), len(frames)))
    return records


def _stored(settings: Settings, picture: Image.Image) -> bytes:
    """Returns a picture as it is stored, encoded.

    `resize_and_crop` to the stored short side gives the same pixels as for the original, except for JPEG losses.
    """
    width, height = picture.size
    short = min(width, height)
    if short > settings.short_side:
        size = settings.short_side * width // short, settings.short_side * height // short
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return _encoded(picture, settings.quality)


def _encoded(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    if quality == LOSSLESS:
        picture.save(file, "PNG")
    else:
        # Full-resolution colours cost a tenth more bytes; at half resolution, the features deviate twice as much.
        picture.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def _versions() -> dict[str, str]:
    """Returns the versions of the packages that determine the bytes of a shard."""
    packages = {name: importlib.metadata.version(name) for name in ("array_record", "av", "pillow")}
    return {"hbi_jax": __version__, **packages}


def _write_metadata(folder: pathlib.Path, shards: Sequence[Shard]) -> None:
    """Writes the metadata with which TFDS reads the folder."""
    identity = DatasetIdentity(_NAME, tfds.core.Version(_VERSION), data_dir=str(folder), module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=features(), description=__doc__.split("\n")[0])
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    template = tfds.core.ShardedFileTemplate(
        dataset_name=_NAME, data_dir=folder, split=_SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=_SPLIT,
        shard_lengths=[shard.num_records for shard in shards],
        num_bytes=sum(shard.size for shard in shards),
        filename_template=template,
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    info.write_to_directory(folder)
