"""A split as arrays: captions tokenised once, videos decoded when asked for, unreadable ones remembered."""

import functools
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from hbi_jax.data.augment import Transform
from hbi_jax.data.datasets.records import DataError, Split
from hbi_jax.data.decode import TIMEOUT
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.prepared import Prepared, window
from hbi_jax.data.text import Tokenizer
from hbi_jax.data.video import VideoError, map_windows

# Index of a row that stands for no record and no video: the filling of a gallery's last batch.
FILLING = -1

_NAMED_AT_MOST = 50


class Source:
    """The rows of a split. Any number of threads may use one; a worker process gets a copy.

    A video that cannot be read is remembered with the reason and not tried again: its rows are masked,
    never made up. Of the rows that are asked for together, those of one video file read it once.

    Attributes:
      split: The records.
      captions_per_video: "all" or "one": what of the records an epoch of training visits.
      unreadable: The reason for each video id that this process found unreadable so far.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: Tokenizer,
        image_size: int,
        max_frames: int,
        *,
        frames_per_second: float = 1.0,
        cache_gib: float = 0.0,
        max_unreadable_rate: float = 0.01,
        video_timeout: float = TIMEOUT,
        captions_per_video: str = "all",
        square_pixels: bool = True,
        prepared: Prepared | None = None,
    ):
        """Tokenises all captions; decodes nothing yet.

        Args:
          split: The records.
          tokenizer: Sets the length of a text row.
          image_size: Side of the square frames, in pixels.
          max_frames: Length of a video row.
          frames_per_second: Density of the grid that frames are sampled from.
          cache_gib: Memory for decoded clips, in GiB; each that fits is decoded once.
          max_unreadable_rate: Largest share of the split's videos, in [0, 1], that may be unreadable.
          video_timeout: Processor time that decoding a file may take, in seconds; 0: any.
          captions_per_video: "all": every record is a row of an epoch. "one": every video is, with one of its
            records, drawn anew in every epoch.
          square_pixels: Whether pictures whose pixels are not square are scaled as a player does it.
          prepared: Where the frames come from instead of the video files.

        Raises:
          ValueError: If a size or share is out of range.
          DataError: If the prepared videos are not those of the split, or not prepared for these frames.
        """
        for name, value in (("image_size", image_size), ("max_frames", max_frames)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, wanted at least 1.")
        if not (frames_per_second > 0 and cache_gib >= 0 and video_timeout >= 0 and 0 <= max_unreadable_rate <= 1):
            raise ValueError(
                f"frames_per_second, cache_gib, video_timeout, max_unreadable_rate: got {frames_per_second}, "
                f"{cache_gib}, {video_timeout}, {max_unreadable_rate}, wanted > 0, >= 0, >= 0 and a share in [0, 1]."
            )
        if captions_per_video not in ("all", "one"):
            raise ValueError(f"captions_per_video: got {captions_per_video!r}, wanted 'all' or 'one'.")
        if prepared is not None:
            prepared.check(split, image_size, frames_per_second, square_pixels)
        self.split = split
        self.captions_per_video = captions_per_video
        self.unreadable: dict[str, str] = {}
        self.cache = _ClipCache(int(cache_gib * 2**30))
        self._tokenizer = tokenizer
        self._token_ids, self._text_mask = tokenizer.encode([record.text for record in split.records])
        self._image_size = image_size
        self._max_frames = max_frames
        self._frames_per_second = frames_per_second
        self._video_timeout = video_timeout
        self._square_pixels = square_pixels
        self._max_unreadable_rate = max_unreadable_rate
        self._prepared = prepared

    @property
    def num_rows(self) -> int:
        """Rows of an epoch of training."""
        return len(self.split.records) if self.captions_per_video == "all" else self.split.num_videos

    def draw_records(
        self, rows: Int[np.ndarray, " n"], epoch: Int[np.ndarray, " n"], seed: int
    ) -> Int[np.ndarray, " n"]:
        """The records that rows of an epoch stand for: themselves, or one of the video's, by (seed, epoch, video).

        Args:
          rows: Numbers below `num_rows`.
          epoch: In which epoch each is visited.
          seed: Seed of the draw.
        """
        if self.captions_per_video == "all":
            return rows
        drawn = []
        for video, visit in zip(rows.tolist(), epoch.tolist(), strict=True):
            records = self.records_of[video]
            # The 1 tells this stream from that of the augmentation, (seed, step, row).
            drawn.append(records[np.random.default_rng((seed, visit, video, 1)).integers(len(records))])
        return np.asarray(drawn)

    @functools.cached_property
    def records_of(self) -> Sequence[Int[np.ndarray, " m"]]:
        """For each video the numbers of its records."""
        order = np.argsort(self.split.video_index, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.split.video_index))[:-1])

    @functools.cached_property
    def truncated(self) -> Int[np.ndarray, " n"]:
        """Numbers of the records whose text does not fit into its row and loses its last words."""
        full = np.flatnonzero(self._text_mask.all(axis=1)).tolist()
        cut = [record for record in full if self._tokenizer.truncated([self.split.records[record].text])]
        return np.asarray(cut, np.int32)

    def text_rows(self, record_index: Int[np.ndarray, " b"]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Token ids and mask of the given records; zeros where the index is `FILLING`."""
        real = (record_index != FILLING)[:, None]
        return np.where(real, self._token_ids[record_index], 0), self._text_mask[record_index] & real

    def video_rows(
        self, video_index: Int[np.ndarray, " b"], transforms: Sequence[Transform] | None = None
    ) -> tuple[UInt8[np.ndarray, "b f h w 3"], Bool[np.ndarray, "b f"], Bool[np.ndarray, " b"]]:
        """Decodes the given videos.

        Args:
          video_index: Positions in `Split.videos`, or `FILLING`.
          transforms: What is done to the frames of each, before they are resized. Such clips are not cached.

        Returns:
          frames: RGB in 0..255; zero at padding and in rows that are not readable.
          frame_mask: True at real frames.
          readable: False at `FILLING` and at unreadable videos.
        """
        size = self._image_size
        frames = np.zeros((len(video_index), self._max_frames, size, size, 3), np.uint8)
        frame_mask = np.zeros((len(video_index), self._max_frames), bool)
        for row, clip in self._clips(video_index.tolist(), transforms or [None] * len(video_index)):
            frames[row, : len(clip)] = clip
            frame_mask[row, : len(clip)] = True
        return frames, frame_mask, frame_mask.any(axis=1)

    def account(self, masked: Int[np.ndarray, " m"]) -> None:
        """Takes note of videos that came back unreadable, perhaps from a worker, and checks their share.

        Args:
          masked: Positions in `Split.videos` of rows that were not readable.

        Raises:
          DataError: If more than `max_unreadable_rate` of the split's videos are unreadable, with their
            names.
        """
        for video in masked.tolist():
            if any(True for _ in self._clips([video], [None])):
                # Only a worker failed to read it. It stays out, as it would in a run without workers.
                self.unreadable[self.split.videos[video].video_id] = "failed in a worker process, not here"
        # Threads go on adding to it.
        check_unreadable(self.split, self.unreadable.copy(), self._max_unreadable_rate)

    def _clips(
        self, videos: Sequence[int], transforms: Sequence[Transform | None]
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "n h w 3"]]]:
        """Rows and real frames of the wanted videos that have some; of the others, the reason is noted."""
        files: dict[pathlib.Path, list[int]] = {}
        for row, (video, transform) in enumerate(zip(videos, transforms, strict=True)):
            record = None if video == FILLING else self.split.videos[video]
            if record is None or record.video_id in self.unreadable:
                continue
            clip = self.cache.get(video) if transform is None else None
            if clip is None:
                files.setdefault(record.path, []).append(row)
            else:
                yield row, clip
        read = map_windows if self._prepared is None else self._prepared.map_windows
        for path, rows in files.items():
            windows = list(dict.fromkeys(window(self.split.videos[videos[row]]) for row in rows))
            # Rows of equal transforms, such as none, share frames.
            distinct = list({id(transforms[row]): transforms[row] for row in rows}.values())
            finish = functools.partial(_variants, distinct, self._image_size)
            settings = self._max_frames, self._frames_per_second, self._video_timeout, self._square_pixels
            found = read(finish, path, windows, *settings)
            for row in rows:
                record, transform = self.split.videos[videos[row]], transforms[row]
                pictures = found[windows.index(window(record))]
                if isinstance(pictures, VideoError):
                    self.unreadable[record.video_id] = str(pictures)
                    continue
                variant = next(number for number, other in enumerate(distinct) if other is transform)
                clip = np.stack([variants[variant] for variants in pictures])
                if transform is None:
                    self.cache.put(videos[row], clip)
                yield row, clip


def _variants(
    transforms: Sequence[Transform | None], image_size: int, picture: Image.Image
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """What each transform makes of a picture, resized."""
    return [resize_and_crop(transform(picture) if transform else picture, image_size) for transform in transforms]


def check_unreadable(split: Split, unreadable: Mapping[str, str], max_rate: float | int) -> None:
    """Refuses a split of which too many videos cannot be read.

    Args:
      split: The split.
      unreadable: The reason for each id.
      max_rate: Largest share of the split's videos, in [0, 1], that may be unreadable.

    Raises:
      DataError: If more are, with their names.
    """
    count, total = len(unreadable), split.num_videos
    if count > max_rate * total:
        names = [f"  {video_id}: {reason}" for video_id, reason in sorted(unreadable.items())]
        if count > _NAMED_AT_MOST:
            names[_NAMED_AT_MOST:] = [f"  and {count - _NAMED_AT_MOST} more"]
        raise DataError(
            f"videos of split {split.name!r}",
            f"{count} of {total} unreadable",
            f"at most {max_rate:.2%} of them",
            "repair these, take them out of the list or raise max_unreadable_rate:\n" + "\n".join(names),
        )


class _ClipCache:
    """Decoded clips, kept until the memory is full.

    Nothing is evicted: an epoch reads every clip, in a new order, so that no clip is worth more than another.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._clips: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _ClipCache, (self.capacity,)

    def get(self, video: int) -> UInt8[np.ndarray, "n h w 3"] | None:
        return self._clips.get(video)

    def put(self, video: int, clip: UInt8[np.ndarray, "n h w 3"]) -> None:
        with self._lock:
            if video not in self._clips and self._bytes + clip.nbytes <= self.capacity:
                self._clips[video] = clip
                self._bytes += clip.nbytes
