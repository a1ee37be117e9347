"""Batches of a split, built with Grain: shuffled, sharded over processes, prefetched by threads or workers.

The content of a global training batch depends only on the split, the augmentation, the seed and the step, not on the
number of processes, workers and threads. A run can therefore resume at any step, on other hardware.
"""

import functools
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int

from hbi_jax.data.augment import Augmentation
from hbi_jax.data.datasets.records import DataError
from hbi_jax.data.source import FILLING, Source
from hbi_jax.types import Batch, Frames


class TextBatch(NamedTuple):
    """A batch of a gallery's texts.

    Attributes:
      token_ids: CLIP token ids, zero at padding.
      text_mask: True at real tokens, including the start and end tokens.
      record_index: Index of the text's record within its split; `FILLING` in padding rows.
      example_mask: False in the padding rows of the last batch.
    """

    token_ids: Int[np.ndarray, "b t"]
    text_mask: Bool[np.ndarray, "b t"]
    record_index: Int[np.ndarray, " b"]
    example_mask: Bool[np.ndarray, " b"]


class VideoBatch(NamedTuple):
    """A batch of a gallery's videos.

    Attributes:
      frames: RGB in 0..255, resized and cropped, zero at padding; or features.
      frame_mask: True at real frames.
      video_index: Index of the video in `Split.videos`; `FILLING` in padding rows.
      example_mask: False for unreadable videos and in the padding rows of the last batch.
    """

    frames: Frames
    frame_mask: Bool[np.ndarray, "b f"]
    video_index: Int[np.ndarray, " b"]
    example_mask: Bool[np.ndarray, " b"]


_B = TypeVar("_B", Batch, VideoBatch)

# After so many batches in which no two views of a video differ, none ever will.
_BATCHES_OF_EQUAL_VIEWS = 8


class Batches(Generic[_B]):
    """A prefetching iterator of batches; call `close` or use a `with` statement to stop it.

    Every batch is checked for unreadable videos before it is returned: `next` raises the errors of `Source.account`.
    """

    def __init__(self, rows: grain.MapDataset, source: Source, num_workers: int, num_threads: int, prefetch: int):
        if num_workers > 0 and source.cache.capacity > 0:
            raise ValueError(
                f"num_workers: got {num_workers} with a cache of clips, wanted 0, because each worker would "
                "fill its own cache; set num_workers or cache_gib to 0."
            )
        self._source = source
        # Batches until the two views of some video must have differed; None after one has.
        self._views_left: int | None = _BATCHES_OF_EQUAL_VIEWS
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads))
        dataset = rows.to_iter_dataset(options)
        if num_workers > 0:
            if not flags.FLAGS.is_parsed():
                # Grain passes its debugging flags to its workers, but a program without absl never parses flags.
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
        self._iterator = iter(dataset)

    def __iter__(self) -> "Batches[_B]":
        return self

    def __next__(self) -> _B:
        batch = next(self._iterator)
        masked = ~np.asarray(batch.example_mask) & (batch.video_index != FILLING)
        self._source.account(batch.video_index[masked])
        if isinstance(batch, Batch) and batch.second_frames is not None and self._views_left is not None:
            self._check_views(batch)
        return batch

    def _check_views(self, batch: Batch) -> None:
        """Raises DataError if the two views of every video have been the same frames so far, for several batches."""
        if not np.array_equal(batch.frames, batch.second_frames):
            self._views_left = None
            return
        self._views_left -= bool(batch.example_mask.any())
        if not self._views_left:
            raise DataError(
                "config.data.num_views",
                f"2 equal views of every video of {_BATCHES_OF_EQUAL_VIEWS} batches, because none has more frames in "
                f"its grid than config.data.num_frames={batch.frames.shape[1]} segments",
                "more frames than segments",
                "raise config.data.frames_per_second or lower config.data.num_frames",
            )

    def close(self) -> None:
        """Stops the threads and worker processes."""
        self._iterator.close()

    def __enter__(self) -> "Batches[_B]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def train_batches(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    start_step: int = 0,
    mine: Int[np.ndarray, " m"] | None = None,
    num_workers: int = 0,
    num_threads: int = 4,
    prefetch: int = 4,
    augmentation: Augmentation | None = None,
    num_views: int = 1,
) -> Batches[Batch]:
    """Returns an endless iterator of training batches, shuffled anew every epoch.

    A batch may span two epochs. An epoch visits all records, or all videos with one record each
    (`Source.captions_per_video`). Rows of unreadable videos have `example_mask` False; their indices are kept, and all
    their other values are zero.

    Args:
      source: The records.
      batch_size: Number of rows of the global batch.
      seed: Seed of the shuffling, of the drawn captions and of the augmentation, in [0, 2**32).
      start_step: The step of the first batch.
      mine: The rows of the global batch that this process wants, ascending; None for all. The mesh says which
        (`hbi_jax.parallel.mesh.local_rows`).
      num_workers: Number of worker processes that decode; 0 decodes in this process.
      num_threads: Number of batches that each (worker) process decodes concurrently; 0 decodes only on demand.
      prefetch: Number of batches that each (worker) process buffers, at least `num_threads`.
      augmentation: Draws the transform of each row's frames; its random generator is seeded with the seed, the step and
        the row of the global batch. `None` leaves the frames unchanged.
      num_views: Views of each video, 1 or 2. If the source samples segments, the frames of every view are drawn from
        the seed, the step and the row of the global batch. Two views share one decoding pass and one transform.

    Returns:
      An iterator; close it after use. It raises a DataError if the two views of all videos are equal for several
      batches.

    Raises:
      ValueError: If the batch has more rows than an epoch, if `mine` has other rows, if the seed or the first step is
        out of range, if an augmentation is combined with a cache of clips, or if two views are wanted of a source that
        does not sample segments.
    """
    num_rows = source.num_rows
    if not 0 < batch_size <= num_rows:
        rows = "records" if source.captions_per_video == "all" else "videos"
        raise ValueError(
            f"batch_size: got {batch_size}, wanted 1 to {num_rows}, the {rows} of split "
            f"{source.split.name!r}; lower it or use more data."
        )
    if start_step < 0 or not 0 <= seed < 2**32:
        raise ValueError(f"start_step: got {start_step}, wanted >= 0; seed: got {seed}, wanted 0 <= seed < 2**32.")
    if augmentation is not None and source.cache.capacity > 0:
        raise ValueError(
            "augmentation: got one with a cache of clips, wanted none, because frames are augmented before they are "
            "resized, so every clip has to be decoded anew; omit the augmentation or set cache_gib to 0."
        )
    if num_views not in (1, 2) or (num_views == 2 and source.sampling != "segments"):
        raise ValueError(
            f"num_views: got {num_views} with sampling={source.sampling!r}, wanted 1, or 2 with sampling='segments'."
        )
    rows = functools.partial(_matched_rows, source, _checked(mine, batch_size), augmentation, num_views, seed)
    steps = _order(source, batch_size, seed).map_with_index(rows)
    # Elements are computed lazily, so the batches before the first step are not decoded.
    return Batches(steps[start_step:], source, num_workers, num_threads, prefetch)


def batch_records(source: Source, batch_size: int, seed: int, step: int) -> Int[np.ndarray, " b"]:
    """Returns the record of each row of the global training batch that follows `step` completed steps.

    Args:
      source: The records.
      batch_size: Number of rows of the global batch.
      seed: Seed of the shuffling and of the drawn captions.
      step: Number of completed steps.
    """
    rows = _order(source, batch_size, seed)[step]
    return source.draw_records(rows, _epochs(source, step, rows), seed).astype(np.int32)


def text_batches(source: Source, batch_size: int, mine: Int[np.ndarray, " m"] | None = None) -> Iterator[TextBatch]:
    """Yields the texts of all records once, in order; the last batch is padded.

    Args:
      source: The records.
      batch_size: Number of rows of the global batch.
      mine: The rows of the global batch that this process wants, ascending; None for all.

    Yields:
      This process's rows of each global batch.

    Raises:
      ValueError: If the batch has no row, or `mine` has other rows.
    """
    index = _gallery_index(len(source.split.records), batch_size, mine)
    return (TextBatch(*source.text_rows(record), record, record != FILLING) for record in index)


def video_batches(
    source: Source,
    batch_size: int,
    mine: Int[np.ndarray, " m"] | None = None,
    *,
    num_workers: int = 0,
    num_threads: int = 4,
    prefetch: int = 4,
) -> Batches[VideoBatch]:
    """Returns an iterator over the distinct videos, in the order of `Split.videos`; the last batch is padded.

    Args:
      source: The records.
      batch_size: Number of rows of the global batch.
      mine: The rows of the global batch that this process wants, ascending; None for all.
      num_workers: Number of worker processes that decode; 0 decodes in this process.
      num_threads: Number of batches that each (worker) process decodes concurrently; 0 decodes only on demand.
      prefetch: Number of batches that each (worker) process buffers, at least `num_threads`.

    Returns:
      An iterator of this process's rows of each global batch; close it after use.

    Raises:
      ValueError: If the batch has no row, or `mine` has other rows.
    """

    def rows(index: Int[np.ndarray, " b"]) -> VideoBatch:
        frames, frame_mask, readable = source.video_rows(index)
        return VideoBatch(frames, frame_mask, index, readable)

    index = _gallery_index(source.split.num_videos, batch_size, mine)
    return Batches(grain.MapDataset.source(index).map(rows), source, num_workers, num_threads, prefetch)


def _order(source: Source, batch_size: int, seed: int) -> grain.MapDataset:
    """Returns the rows of the epochs that make up each global training batch."""
    order = grain.MapDataset.range(source.num_rows).seed(seed).shuffle().repeat()
    return order.batch(batch_size, drop_remainder=True, batch_fn=np.asarray)


def _epochs(source: Source, step: int, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Returns the epoch that each row of a global batch belongs to."""
    return (step * len(rows) + np.arange(len(rows))) // source.num_rows


def _matched_rows(
    source: Source,
    mine: Int[np.ndarray, " m"],
    augmentation: Augmentation | None,
    num_views: int,
    seed: int,
    step: int,
    rows: Int[np.ndarray, " n"],
) -> Batch:
    """Returns this process's rows, `mine`, of the global batch of a step; `rows` are the epoch rows of that batch."""
    epoch = _epochs(source, step, rows)
    record_index = source.draw_records(rows[mine], epoch[mine], seed).astype(np.int32)
    token_ids, text_mask = source.text_rows(record_index)
    video_index = source.split.video_index[record_index]
    transforms = None
    if augmentation is not None:
        transforms = [
            augmentation(source.texts_of(video), np.random.default_rng((seed, step, row)))
            for row, video in zip(mine.tolist(), video_index.tolist(), strict=True)
        ]
    draws = None
    if source.sampling == "segments":
        # The 2 separates this random stream from those of the captions, (..., 1), and of the augmentation.
        generators = [np.random.default_rng((seed, step, row, 2)) for row in mine.tolist()]
        views = [generator.random((num_views, source.max_frames)) for generator in generators]
        draws = [tuple(drawn[view].tolist()) for view in range(num_views) for drawn in views]
    # The views of a video are rows of its file, which share one decoding pass.
    found = source.video_rows(np.tile(video_index, num_views), transforms and num_views * transforms, draws)
    (frames, frame_mask, readable), *second = zip(*(np.split(part, num_views) for part in found), strict=True)
    return Batch(
        token_ids=np.where(readable[:, None], token_ids, 0),
        text_mask=text_mask & readable[:, None],
        frames=frames,
        frame_mask=frame_mask,
        video_index=video_index,
        record_index=record_index,
        example_mask=readable,
        second_frames=second[0][0] if second else None,
        second_mask=second[0][1] if second else None,
    )


def _checked(mine: Int[np.ndarray, " m"] | None, batch_size: int) -> Int[np.ndarray, " m"]:
    """Returns the rows that a process wants of a batch, all if None."""
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, wanted at least 1.")
    rows = np.arange(batch_size) if mine is None else np.asarray(mine)
    if not np.array_equal(rows, np.unique(rows)) or not set(rows.tolist()) <= set(range(batch_size)):
        raise ValueError(f"mine: got {rows.tolist()}, wanted ascending rows of a batch of {batch_size}.")
    return rows


def _gallery_index(num_items: int, batch_size: int, mine: Int[np.ndarray, " m"] | None) -> list[Int[np.ndarray, " m"]]:
    """Returns, for each batch, the indices of this process's items; `FILLING` after the last item."""
    rows = _checked(mine, batch_size)
    index = np.full(-(-num_items // batch_size) * batch_size, FILLING, np.int32)
    index[:num_items] = np.arange(num_items)
    return [batch[rows] for batch in index.reshape(-1, batch_size)]
