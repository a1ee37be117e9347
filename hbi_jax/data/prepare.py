"""One pass over the videos of a data set, to a folder of their frames that training reads instead of them.

A builder of TFDS writes its shards at the end, in one process, and none of them where it is stopped before; a pass of
hours has to use all cores and to go on after an interruption. So shards are written here, one after the other, each
under another name until it is whole; TFDS declares the features, serialises the records and writes the metadata, and
`tfds.builder_from_directory` reads the folder. None of it needs TensorFlow.
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
)
from hbi_jax.data.source import check_unreadable
from hbi_jax.data.video import VideoError, Window, map_windows
from hbi_jax.version import __version__

_log = logging.getLogger(__name__)

# Names for TFDS. It sees one split only: what is trained and what is tested on, the annotations say.
_NAME, _SPLIT, _VERSION = "hbi_videos", "videos", "1.0.0"
# Videos of a shard at most; shards at least, so that an interruption costs little of a small data set, too.
_VIDEOS_PER_SHARD, _LEAST_SHARDS = 256, 16
# Videos that each process may be ahead of the one that is written next.
_AHEAD = 4
# Frames of a clip at most: more than any has, and less than a damaged header may promise.
_MAX_FRAMES = 2**20
# Every record can be read alone, and pictures do not become smaller.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class Summary(NamedTuple):
    """What a folder holds after a pass.

    Attributes:
      clips, frames: How many.
      size: Of all shards, in bytes.
      shards: How many there are.
      kept: How many of them were there before.
      unreadable: For each split the reason for each video id without frames.
    """

    clips: int
    frames: int
    size: int
    shards: int
    kept: int
    unreadable: Mapping[str, Mapping[str, str]]


class _Video(NamedTuple):
    """A video file, the size of it, and the texts about each clip of it."""

    path: pathlib.Path
    file: str
    size: int | None
    texts: Mapping[Window, Sequence[Mapping[str, str]]]


class _Record(NamedTuple):
    """What became of a clip: a serialised example and the number of its frames, or why there is none."""

    example: bytes = b""
    frames: int = 0
    unreadable: str | None = None


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """What a record holds."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "file": text(doc="The video file, as a path from the folder of the videos."),
            "start": tfds.features.Scalar(np.float64, doc="Beginning of the clip, in seconds."),
            "end": tfds.features.Scalar(np.float64, doc="End of the clip, in seconds; infinite: that of the file."),
            FRAMES: tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            "texts": tfds.features.Sequence(
                {name: text() for name in ("split", "video_id", "text", "answer")},
                doc="Captions of the clip, or questions about it with their answers.",
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
) -> Summary:
    """Writes the frames of all clips of some splits; goes on where a pass was broken off.

    Each file is decoded once, whatever the clips of it and the texts about them. A shard that is there, whole, and was
    made from the same videos, texts and settings is kept.

    Args:
      splits: The records.
      videos: The folder of the video files.
      folder: Where the shards go; made where it is missing.
      settings: How the frames are made.
      max_unreadable_rate: Largest share of each split's videos, in [0, 1], that may be unreadable.
      video_timeout: Processor time that decoding a file may take, in seconds; 0: any.
      num_processes: Processes that decode; `None` for one a core, 0 for none but this one.
      config: The configuration, for people who read the manifest.
      shown: Whether to say how far it is.

    Returns:
      What the folder holds.

    Raises:
      DataError: If the folder holds something else, too many videos are unreadable, or the decoder breaks down. Shards
        that are finished stay.
      OSError: If the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    parts = _shards(_videos(splits, pathlib.Path(videos)))
    plans = {name: _plan(settings, part) for name, part in parts.items()}
    found = _claim(folder, settings)
    finished = {s.name: s for s in found if plans.get(s.name) == s.plan and _is_whole(folder, s)}
    Manifest(settings, config or {}, len(parts), list(finished.values())).write(folder)
    unreadable = _Unreadable(splits, max_unreadable_rate)
    for name, shard in finished.items():
        unreadable.note(parts[name], shard.clips)
    kept, todo = len(finished), {name: part for name, part in parts.items() if name not in finished}
    if kept:
        _log.info("%d of %d shards are there already, whole", kept, len(parts))
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
            Manifest.append(folder, finished[name])
    shards = [finished[name] for name in parts]
    _write_metadata(folder, shards)
    for path in (*(folder / shard.name for shard in found), *folder.glob(f".{_NAME}-*")):
        if path.name not in parts:
            path.unlink(missing_ok=True)
    return Summary(
        clips=sum(shard.num_records for shard in shards),
        frames=sum(clip.frames for shard in shards for clip in shard.clips),
        size=sum(shard.size for shard in shards),
        shards=len(shards),
        kept=kept,
        unreadable=unreadable.reasons,
    )


class _Unreadable:
    """The videos without frames, split by split; too many of them raise."""

    def __init__(self, splits: Sequence[Split], max_rate: float | int):
        self.reasons: dict[str, dict[str, str]] = {split.name: {} for split in splits}
        self._splits = {split.name: split for split in splits}
        self._max_rate = max_rate

    def note(self, videos: Sequence[_Video], clips: Sequence[PreparedClip]) -> None:
        """Takes note of what became of all clips of some videos."""
        about = ((video, texts) for video in videos for texts in video.texts.values())
        for (video, texts), clip in zip(about, clips, strict=True):
            if clip.unreadable is None:
                continue
            for text in texts:
                reasons = self.reasons[text["split"]]
                reasons[text["video_id"]] = str(VideoError(video.path, clip.unreadable))
                check_unreadable(self._splits[text["split"]], reasons, self._max_rate)


def _videos(splits: Sequence[Split], folder: pathlib.Path) -> list[_Video]:
    """The video files of some splits in the order in which they appear."""
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
    """The videos of each shard; the number of shards depends on that of the videos alone."""
    count = min(len(videos), max(_LEAST_SHARDS, math.ceil(len(videos) / _VIDEOS_PER_SHARD)))
    bounds = [len(videos) * number // count for number in range(count + 1)]
    return {
        f"{_NAME}-{_SPLIT}.array_record-{number:05d}-of-{count:05d}": videos[bounds[number] : bounds[number + 1]]
        for number in range(count)
    }


def _plan(settings: Settings, videos: Sequence[_Video]) -> str:
    """Checksum of all that a shard is made from."""
    parts = [[video.file, video.size, list(video.texts.items())] for video in videos]
    # A fixed order: the checksum outlives the order of declaration.
    names = ("frames_per_second", "short_side", "quality", "square_pixels")
    made_by = {name: getattr(settings, name) for name in names}
    return hashlib.sha256(json.dumps([made_by, parts]).encode()).hexdigest()


def _claim(folder: pathlib.Path, settings: Settings) -> Sequence[Shard]:
    """Makes the folder; refuses one that holds something else. Gives the shards that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        if any(folder.iterdir()):
            wanted = "an empty folder, or one of prepared videos"
            raise DataError(f"folder {folder}", f"files but no {MANIFEST}", wanted, "choose another")
        return ()
    manifest = Manifest.read(folder)
    for name, value in dataclasses.asdict(settings).items():
        made = getattr(manifest.settings, name)
        if value != made:
            remedy = "use that, choose another folder, or delete this one"
            raise DataError(f"prepared videos {folder}, {name}", f"{value}", f"{made}, as it was begun with", remedy)
    return manifest.shards


def _is_whole(folder: pathlib.Path, shard: Shard) -> bool:
    path = folder / shard.name
    return _size(path) == shard.size and checksum(path) == shard.sha256


@contextlib.contextmanager
def _writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    """Adds records to a file that has its name only when it is whole."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")

    def tried(call: Callable[..., None], *args: bytes) -> None:
        try:
            call(*args)
        except RuntimeError as error:
            raise OSError(f"{path}: cannot be written ({error}); make room or choose another folder") from error

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
    """Processes, or for 0 a thread, that end with this one, however it ends."""
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
    # An interruption from the keyboard reaches all processes; the first one deals with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _in_order(
    decoding: Iterable[tuple[_Video, concurrent.futures.Future[list[_Record]]]], ahead: int
) -> Iterator[list[_Record]]:
    """What becomes of each video, in order; not more than `ahead` others are begun before the next is asked for."""
    decoding, waiting = iter(decoding), collections.deque()
    while True:
        waiting.extend(itertools.islice(decoding, ahead - len(waiting)))
        if not waiting:
            return
        try:
            records = waiting[0][1].result()
        except concurrent.futures.BrokenExecutor as error:
            names = ", ".join(video.file for video, future in waiting if not future.done() or future.exception())
            remedy = "take out of the lists the one that does it; shards that are finished stay"
            raise DataError("videos", f"a process that broke down at one of {names}", "frames", remedy) from error
        waiting.popleft()
        yield records


def _decode(settings: Settings, timeout: float | int, video: _Video) -> list[_Record]:
    """The records of all clips of a video file."""
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
    """A picture as it is stored. `resize_and_crop` makes the same of it as of the original, but for a JPEG's losses."""
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
        # Colours at full resolution, for a tenth more bytes: at half of it, features move twice as far.
        picture.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def _versions() -> dict[str, str]:
    """Of what the bytes of a shard depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("array_record", "av", "pillow")}
    return {"hbi_jax": __version__, **packages}


def _write_metadata(folder: pathlib.Path, shards: Sequence[Shard]) -> None:
    """What TFDS wants to know of a folder."""
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
