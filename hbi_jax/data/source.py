"""A split as arrays: captions tokenised once, videos decoded when asked for, unreadable ones remembered."""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from hbi_jax.data.augment import Transform
from hbi_jax.data.datasets.records import DataError, Split
from hbi_jax.data.text import Tokenizer
from hbi_jax.data.video import VideoError, read_frames

# Index of a row that stands for no record and no video: the filling of a gallery's last batch.
FILLING = -1

_NAMED_AT_MOST = 50


class Source:
    """The rows of a split. Any number of threads may use one; a worker process gets a copy.

    A video that cannot be read is remembered with the reason and not tried again: its rows are masked,
    never made up.

    Attributes:
      split: The records.
      unreadable: The reason for each video id that this process found unreadable so far.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: Tokenizer,
        image_size: int,
        max_frames: int,
        frames_per_second: float = 1.0,
        cache_gib: float = 0.0,
        max_unreadable_rate: float = 0.01,
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

        Raises:
          ValueError: If a size or share is out of range.
        """
        for name, value in (("image_size", image_size), ("max_frames", max_frames)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, wanted at least 1.")
        if not frames_per_second > 0 or not cache_gib >= 0 or not 0 <= max_unreadable_rate <= 1:
            raise ValueError(
                f"frames_per_second, cache_gib, max_unreadable_rate: got {frames_per_second}, {cache_gib}, "
                f"{max_unreadable_rate}, wanted > 0, >= 0 and a share in [0, 1]."
            )
        self.split = split
        self.unreadable: dict[str, str] = {}
        self.cache = _ClipCache(int(cache_gib * 2**30))
        self._tokenizer = tokenizer
        self._token_ids, self._text_mask = tokenizer.encode([record.text for record in split.records])
        self._image_size = image_size
        self._max_frames = max_frames
        self._frames_per_second = frames_per_second
        self._max_unreadable_rate = max_unreadable_rate

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
        rows = zip(video_index.tolist(), transforms or [None] * len(video_index), strict=True)
        for row, (video, transform) in enumerate(rows):
            clip = None if video == FILLING else self._clip(video, transform)
            if clip is not None:
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
            if self._clip(video) is not None:
                # Only a worker failed to read it. It stays out, as it would in a run without workers.
                self.unreadable[self.split.videos[video].video_id] = "failed in a worker process, not here"
        unreadable, total = self.unreadable.copy(), self.split.num_videos  # threads go on adding to it
        count = len(unreadable)
        if count > self._max_unreadable_rate * total:
            names = [f"  {video_id}: {reason}" for video_id, reason in sorted(unreadable.items())]
            if count > _NAMED_AT_MOST:
                names[_NAMED_AT_MOST:] = [f"  and {count - _NAMED_AT_MOST} more"]
            raise DataError(
                f"videos of split {self.split.name!r}",
                f"{count} of {total} unreadable",
                f"at most {self._max_unreadable_rate:.2%} of them",
                "repair these, take them out of the list or raise max_unreadable_rate:\n" + "\n".join(names),
            )

    def _clip(self, video: int, transform: Transform | None = None) -> UInt8[np.ndarray, "n h w 3"] | None:
        """The real frames of a video; `None`, and a note of the reason, if there are none."""
        record = self.split.videos[video]
        if record.video_id in self.unreadable:
            return None
        clip = self.cache.get(video) if transform is None else None
        if clip is None:
            try:
                clip = read_frames(
                    record.path,
                    self._max_frames,
                    self._image_size,
                    record.start,
                    record.end,
                    self._frames_per_second,
                    transform,
                )
            except VideoError as error:
                self.unreadable[record.video_id] = str(error)
                return None
            if transform is None:
                self.cache.put(video, clip)
        return clip


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
