"""Converts a split to arrays: tokenises captions once, decodes videos on demand, remembers unreadable videos."""

import contextlib
import copy
import functools
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from hbi_jax.data.augment import Transform
from hbi_jax.data.datasets.records import DataError, Split
from hbi_jax.data.decode import TIMEOUT
from hbi_jax.data.images import resize_and_crop
from hbi_jax.data.prepared import Prepared, window
from hbi_jax.data.text import Tokenizer
from hbi_jax.data.video import SEGMENTED_GRID, Draws, VideoError, frame_times, map_windows, middle, segment_places
from hbi_jax.types import Frames

# Index of a padding row, which stands for no record and no video; pads the last batch of a gallery.
FILLING = -1

_NAMED_AT_MOST = 50


class FrameFeatures(NamedTuple):
    """A vision tower's features of the frames of every video of a split; the mask is True at real frames.

    The frames are those of a row or, if the source samples segments, those of the grid that it samples from.
    """

    features: Float[np.ndarray, "n f d"]
    mask: Bool[np.ndarray, "n f"]


class Source:
    """The rows of a split; safe to share among threads, copied to worker processes.

    An unreadable video is remembered with the reason and not read again; its rows are masked, never invented. Rows that
    are requested together and belong to one video file share one read of the file.

    Attributes:
      split: The split.
      captions_per_video: "all" or "one": whether an epoch of training visits every record or one per video.
      sampling: "even" or "segments": how the frames of a video are chosen.
      max_frames: Number of frames of a video row.
      unreadable: The unreadable videos that this process knows of so far: video id -> reason.
      features: Features that rows have instead of pixels; None: pixels.
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
        sampling: str = "even",
        prepared: Prepared | None = None,
    ):
        """Tokenises all captions; decodes nothing yet.

        Args:
          split: The split.
          tokenizer: The tokenizer; it determines the length of a text row.
          image_size: Side of the square frames, in pixels.
          max_frames: Number of frames of a video row.
          frames_per_second: Density of the grid that frames are sampled from.
          cache_gib: Memory for decoded clips, in GiB; clips that fit are decoded only once.
          max_unreadable_rate: Largest share of the split's videos, in [0, 1], that may be unreadable.
          video_timeout: Maximum processor time per file, in seconds; 0 means no limit.
          captions_per_video: "all": every record is a row of an epoch. "one": every video is a row, with one of its
            records drawn anew in every epoch.
          square_pixels: Whether to scale pictures with non-square pixels as a player does.
          sampling: "even": evenly spread frames. "segments": a frame of each of `max_frames` equal segments, the middle
            one unless the caller draws others.
          prepared: The prepared videos to read instead of the video files; `None` reads the video files.

        Raises:
          ValueError: If a size or share is out of range.
          DataError: If the prepared videos lack clips of the split or were prepared with other settings.
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
        if sampling not in ("even", "segments"):
            raise ValueError(f"sampling: got {sampling!r}, wanted 'even' or 'segments'.")
        if prepared is not None:
            prepared.check(split, image_size, frames_per_second, square_pixels)
        self.split = split
        self.captions_per_video = captions_per_video
        self.unreadable: dict[str, str] = {}
        self.features: FrameFeatures | None = None
        self.cache = _ClipCache(int(cache_gib * 2**30))
        self._tokenizer = tokenizer
        self._token_ids, self._text_mask = tokenizer.encode([record.text for record in split.records])
        self._image_size = image_size
        self.max_frames = max_frames
        self.sampling = sampling
        self._draws = middle(max_frames) if sampling == "segments" else None
        self._grid_part: int | None = None
        self._frames_per_second = frames_per_second
        self._video_timeout = video_timeout
        self._square_pixels = square_pixels
        self._max_unreadable_rate = max_unreadable_rate
        self._prepared = prepared

    def describe_frames(self) -> list:
        """Returns, as JSON, what the frames of this source are made from: its settings, and every video's file."""

        def stamp(path: pathlib.Path) -> list[int] | None:
            with contextlib.suppress(OSError):
                found = path.stat()
                return [found.st_size, found.st_mtime_ns]
            return None

        clips = [[clip.video_id, str(clip.path), clip.start, clip.end, stamp(clip.path)] for clip in self.split.videos]
        settings = [self._image_size, self.max_frames, self.sampling, self._frames_per_second, self._square_pixels]
        return [settings, None if self._prepared is None else self._prepared.checksums(), clips]

    @property
    def num_rows(self) -> int:
        """The number of rows of a training epoch."""
        return len(self.split.records) if self.captions_per_video == "all" else self.split.num_videos

    def draw_records(
        self, rows: Int[np.ndarray, " n"], epoch: Int[np.ndarray, " n"], seed: int
    ) -> Int[np.ndarray, " n"]:
        """Returns the record of each row of an epoch.

        With `captions_per_video` "all" a row is a record. With "one" a row is a video, and one of its records is drawn
        from (seed, epoch, video).

        Args:
          rows: Indices of rows, below `num_rows`.
          epoch: The epoch of each row.
          seed: Seed of the draw.

        Returns:
          Indices of records.
        """
        if self.captions_per_video == "all":
            return rows
        drawn = []
        for video, visit in zip(rows.tolist(), epoch.tolist(), strict=True):
            records = self.records_of[video]
            # The 1 separates this random stream from that of the augmentation, (seed, step, row).
            drawn.append(records[np.random.default_rng((seed, visit, video, 1)).integers(len(records))])
        return np.asarray(drawn)

    @functools.cached_property
    def records_of(self) -> Sequence[Int[np.ndarray, " m"]]:
        """The indices of each video's records."""
        order = np.argsort(self.split.video_index, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.split.video_index))[:-1])

    def texts_of(self, video: int) -> str:
        """Returns all captions of a video, or its questions and answers, in one string."""
        records = (self.split.records[record] for record in self.records_of[video].tolist())
        return " ".join(text for record in records for text in (record.text, record.answer) if text)

    @functools.cached_property
    def truncated(self) -> Int[np.ndarray, " n"]:
        """The indices of records whose text does not fit into its row and loses its last words."""
        full = np.flatnonzero(self._text_mask.all(axis=1)).tolist()
        cut = [record for record in full if self._tokenizer.truncated([self.split.records[record].text])]
        return np.asarray(cut, np.int32)

    def text_rows(self, record_index: Int[np.ndarray, " b"]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Returns the token ids and mask of the given records; rows with index `FILLING` are zero."""
        real = (record_index != FILLING)[:, None]
        return np.where(real, self._token_ids[record_index], 0), self._text_mask[record_index] & real

    def video_rows(
        self,
        video_index: Int[np.ndarray, " b"],
        transforms: Sequence[Transform] | None = None,
        draws: Sequence[Draws] | None = None,
    ) -> tuple[Frames, Bool[np.ndarray, "b f"], Bool[np.ndarray, " b"]]:
        """Decodes the given videos, or looks up their features.

        Args:
          video_index: Indices in `Split.videos`, or `FILLING`.
          transforms: The transform of each video's frames, applied before they are resized. Transformed clips are not
            cached.
          draws: Where in its segment each frame of a row lies, if the source samples segments.

        Returns:
          frames: RGB in 0..255, zero at padding and in unreadable rows; or features.
          frame_mask: True at real frames.
          readable: False for `FILLING` and for unreadable videos.
        """
        if draws is not None and self._draws is None:
            raise ValueError("draws: got some with sampling='even', wanted none; use sampling='segments'.")
        if self.features is not None:
            return self._feature_rows(video_index, draws)
        size = self._image_size
        frames = np.zeros((len(video_index), self.max_frames, size, size, 3), np.uint8)
        frame_mask, readable = np.zeros((len(video_index), self.max_frames), bool), np.zeros(len(video_index), bool)
        for row, clip in self._clips(video_index.tolist(), transforms or [None] * len(video_index), draws):
            frames[row, : len(clip)] = clip
            frame_mask[row, : len(clip)] = True
            readable[row] = True
        return frames, frame_mask, readable

    def use_features(self, features: FrameFeatures) -> None:
        """Takes features of the frames in place of pixels, and forgets the decoded clips, which nothing reads then."""
        self.features, self.cache = features, _ClipCache(0)

    def grid_part(self, number: int) -> "Source":
        """Returns a source whose rows are consecutive frames of the grids that this one samples segments from.

        Args:
          number: Which `max_frames` of the frames; a video whose grid ends before them has none, but is readable.
        """
        part = copy.copy(self)
        part._grid_part = number
        return part

    def _feature_rows(
        self, video_index: Int[np.ndarray, " b"], draws: Sequence[Draws] | None
    ) -> tuple[Float[np.ndarray, "b f d"], Bool[np.ndarray, "b f"], Bool[np.ndarray, " b"]]:
        """Returns what `video_rows` does, from `features`."""
        found, mask = self.features.features, self.features.mask[video_index] & (video_index != FILLING)[:, None]
        if self._draws is None:
            return found[video_index], mask, mask.any(axis=1)
        draws = [self._draws] * len(video_index) if draws is None else draws
        rows = np.zeros((len(video_index), self.max_frames, found.shape[-1]), found.dtype)
        row_mask = np.zeros(rows.shape[:2], bool)
        for row, (video, count) in enumerate(zip(video_index.tolist(), mask.sum(axis=1).tolist(), strict=True)):
            places = segment_places(count, self.max_frames, draws[row])
            rows[row, : len(places)] = found[video, places]
            row_mask[row, : len(places)] = True
        return rows, row_mask, mask.any(axis=1)

    def frame_times(self, video: int) -> Float[np.ndarray, " n"]:
        """Returns the times at which the sampled frames of a video are shown, in seconds, as its file tells them.

        Args:
          video: Index in `Split.videos`.

        Raises:
          VideoError: If the file cannot be read; prepared videos do not replace it.
        """
        record = self.split.videos[video]
        return frame_times(
            record.path,
            self.max_frames,
            record.start,
            record.end,
            self._frames_per_second,
            self._draws,
            self._video_timeout,
        )

    def account(self, masked: Int[np.ndarray, " m"]) -> None:
        """Records videos that this process or a worker could not read, and checks their share.

        Args:
          masked: Indices in `Split.videos` of the unreadable rows.

        Raises:
          DataError: If more than `max_unreadable_rate` of the split's videos are unreadable; the message names them.
        """
        for video in masked.tolist():
            if any(True for _ in self._clips([video], [None])):
                # Only a worker failed to read the video. Count it as unreadable, as in a run without workers.
                self.unreadable[self.split.videos[video].video_id] = "failed in a worker process, not here"
        self.learn_unreadable({})

    def learn_unreadable(self, found: Mapping[str, str]) -> None:
        """Adds videos that another process could not read, and checks the share of all of them.

        Args:
          found: The videos: video id -> reason. Reasons that are known already stay.

        Raises:
          DataError: If more than `max_unreadable_rate` of the split's videos are unreadable; the message names them.
        """
        for video_id, reason in found.items():
            self.unreadable.setdefault(video_id, reason)
        # Copy, because other threads may add entries during the check.
        check_unreadable(self.split, self.unreadable.copy(), self._max_unreadable_rate)

    def _clips(
        self, videos: Sequence[int], transforms: Sequence[Transform | None], draws: Sequence[Draws] | None = None
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "n h w 3"]]]:
        """Yields the row and the real frames of each readable video; records the reason for the others."""
        draws = [self._draws] * len(videos) if draws is None else draws
        # The cache holds whole grids of frames if they are sampled anew each time.
        whole = self._draws is not None and (self.cache.capacity > 0 or self._grid_part is not None)
        max_frames = SEGMENTED_GRID if whole else self.max_frames

        def sampled(row: int, clip: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "m h w 3"]:
            if self._grid_part is not None:
                return clip[self._grid_part * self.max_frames :][: self.max_frames]
            return clip[segment_places(len(clip), self.max_frames, draws[row])] if whole else clip

        files: dict[pathlib.Path, list[int]] = {}
        for row, (video, transform) in enumerate(zip(videos, transforms, strict=True)):
            record = None if video == FILLING else self.split.videos[video]
            if record is None or record.video_id in self.unreadable:
                continue
            clip = self.cache.get(video) if transform is None else None
            if clip is None:
                files.setdefault(record.path, []).append(row)
            else:
                yield row, sampled(row, clip)
        read = map_windows if self._prepared is None else self._prepared.map_windows
        for path, rows in files.items():
            requests = {row: (window(self.split.videos[videos[row]]), None if whole else draws[row]) for row in rows}
            wanted = list(dict.fromkeys(requests.values()))
            windows, drawn = zip(*wanted, strict=True)
            # Rows with the same transform, or with none, share frames.
            distinct = list({id(transforms[row]): transforms[row] for row in rows}.values())
            finish = functools.partial(_variants, distinct, self._image_size)
            settings = max_frames, self._frames_per_second, self._video_timeout, self._square_pixels
            found = read(finish, path, windows, *settings, drawn)
            for row in rows:
                record, transform = self.split.videos[videos[row]], transforms[row]
                pictures = found[wanted.index(requests[row])]
                if isinstance(pictures, VideoError):
                    self.unreadable[record.video_id] = str(pictures)
                    continue
                variant = next(number for number, other in enumerate(distinct) if other is transform)
                clip = np.stack([variants[variant] for variants in pictures])
                if transform is None:
                    self.cache.put(videos[row], clip)
                yield row, sampled(row, clip)


def _variants(
    transforms: Sequence[Transform | None], image_size: int, picture: Image.Image
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Returns a picture after each of the transforms, resized."""
    return [resize_and_crop(transform(picture) if transform else picture, image_size) for transform in transforms]


def check_unreadable(split: Split, unreadable: Mapping[str, str], max_rate: float | int) -> None:
    """Raises DataError if too many videos of a split are unreadable.

    Args:
      split: The split.
      unreadable: The unreadable videos: video id -> reason.
      max_rate: Largest share of the split's videos, in [0, 1], that may be unreadable.

    Raises:
      DataError: If more videos are unreadable; the message names them.
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
            "repair these, remove them from the list or raise config.data.max_unreadable_rate:\n" + "\n".join(names),
        )


class _ClipCache:
    """A cache of decoded clips with a limit on its memory.

    Nothing is evicted: every epoch reads every clip in a new order, so no clip is worth more than another.
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
