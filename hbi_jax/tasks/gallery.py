"""Gallery encoding: encodes every text and every video of a split once, in batches over the mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Bool, Int, PyTree

from hbi_jax.commands.progress import Progress
from hbi_jax.data.datasets.records import DataError, Record
from hbi_jax.data.pipeline import TextBatch, VideoBatch, text_batches, video_batches
from hbi_jax.data.source import FrameFeatures, Source
from hbi_jax.parallel.mesh import DATA_AXIS, batch_sharding, local_rows, put_batch
from hbi_jax.parallel.pairs import on_mesh
from hbi_jax.parallel.processes import gather
from hbi_jax.train import watchdog
from hbi_jax.types import Batch, Encoded, Frames


@dataclasses.dataclass(frozen=True)
class Gallery:
    """An encoded split, without unreadable videos and their texts.

    Attributes:
      text, video: The encoded texts and videos, as numpy arrays.
      text_to_video: The row of `video` that matches each row of `text`.
      record_index: The index of each row of `text` among the records of its split.
      groups: The number of the near-twin group of each row of `text`; None if any record has no group.
    """

    text: Encoded
    video: Encoded
    text_to_video: Int[np.ndarray, " a"]
    record_index: Int[np.ndarray, " a"]
    groups: Int[np.ndarray, " a"] | None


class Program(NamedTuple):
    """A jitted function with the arguments that it is called with, as shapes: `function.lower(*arguments)`."""

    function: jax.stages.Wrapped
    arguments: tuple


@functools.lru_cache(maxsize=32)
def compiled(model: nn.Module, method: str, mesh: Mesh, *last: object) -> Callable[..., PyTree]:
    """Returns a compiled method of a model, whose rows lie along the mesh's data axis.

    Every caller with the same arguments gets the same function, so a model that is opened again is not compiled again.

    Args:
      model: The model.
      method: The name of its method.
      mesh: The devices.
      *last: The method's last arguments, hashable.

    Returns:
      A function of the model's variables and the method's other arguments.
    """

    def call(params: PyTree, *first: PyTree) -> PyTree:
        with on_mesh(mesh):
            return model.apply(params, *first, *last, method=method)

    call.__name__ = method
    return jax.jit(call, out_shardings=batch_sharding(mesh))


class GalleryEncoder:
    """An encoder of the texts and videos of splits, compiled once for all splits and parameters.

    Attributes:
      model: An HBI, with or without heads.
      mesh: The devices; rows lie along its data axis.
      batch_size: Texts or videos per batch, a multiple of the mesh's data axis.
      local_rows: The rows of a batch that this process decodes.
    """

    def __init__(self, model: nn.Module, mesh: Mesh, batch_size: int):
        """Prepares the compiled functions.

        Args:
          model: A module with the methods `encode_text` and `encode_video`.
          mesh: The devices.
          batch_size: Texts or videos per batch, rounded up to a multiple of the mesh's data axis.
        """
        self.model, self.mesh = model, mesh
        data = mesh.shape[DATA_AXIS]
        self.batch_size = -(-batch_size // data) * data
        self.local_rows = local_rows(mesh, self.batch_size)
        self._encode_text, self._encode_video = (
            compiled(model, name, mesh) for name in ("encode_text", "encode_video")
        )

    def programs(self, params: PyTree, batch: Batch) -> dict[str, Program]:
        """Returns the programs that encode the texts and the videos of a batch.

        Args:
          params: The shapes of the model's variables.
          batch: The shapes of a batch of `batch_size` rows.
        """
        rows = batch_sharding(self.mesh)
        text, video = with_sharding(((batch.token_ids, batch.text_mask), (batch.frames, batch.frame_mask)), rows)
        return {
            "encode_text": Program(self._encode_text, (params, *text)),
            "encode_video": Program(self._encode_video, (params, *video)),
        }

    def encode(self, params: PyTree, source: Source, num_threads: int = 1) -> Gallery:
        """Encodes every text and every video of a split once.

        Args:
          params: The model's variables.
          source: The split.
          num_threads: Number of decoding threads.

        Raises:
          DataError: If more videos are unreadable than the source allows, or all are.
        """
        with Progress(len(source.split.records), f"encode texts, {source.split.name}") as progress:
            texts = text_batches(source, self.batch_size, self.local_rows)
            text, record_index, is_text = self._encode_all(self._encode_text, params, texts, progress)
        video, place = self.encode_videos(params, source, num_threads)
        if (place < 0).all():
            raise DataError(
                f"split {source.split.name!r}",
                f"{source.split.num_videos} videos, none of which can be read",
                "one at least",
                "see the warnings above for the reasons, and check config.data.videos",
            )
        wanted = place[source.split.video_index[np.where(is_text, record_index, 0)]]
        keep = is_text & (wanted >= 0)
        return Gallery(
            text=jax.tree.map(lambda x: x[keep], text),
            video=video,
            text_to_video=wanted[keep],
            record_index=record_index[keep],
            groups=_groups([source.split.records[index] for index in record_index[keep]]),
        )

    def encode_videos(
        self, params: PyTree, source: Source, num_threads: int = 1
    ) -> tuple[Encoded, Int[np.ndarray, " v"]]:
        """Encodes every video of a split once.

        Args:
          params: The model's variables.
          source: The split.
          num_threads: Number of decoding threads.

        Returns:
          The encoded readable videos, and for each video of the split its row among them, or -1 if unreadable.

        Raises:
          DataError: If more videos are unreadable than the source allows.
        """
        video, video_index, is_video = self._all_videos(self._encode_video, params, source, num_threads)
        place = np.full(source.split.num_videos, -1, np.int32)
        place[video_index[is_video]] = np.arange(is_video.sum())
        return jax.tree.map(lambda x: x[is_video], video), place

    def frame_features(self, params: PyTree, source: Source, num_threads: int = 1) -> FrameFeatures:
        """Computes the vision tower's features of every frame of a split once.

        Args:
          params: The model's variables.
          source: The split. If it samples segments, the frames are all those of its grids, part by part.
          num_threads: Number of decoding threads.

        Raises:
          DataError: If more videos are unreadable than the source allows.
        """
        if source.sampling == "even":
            return self._row_features(params, source, num_threads)
        parts: list[FrameFeatures] = []
        # Where no video fills the last frame of a part, no grid goes on.
        while not parts or parts[-1].mask[:, -1].any():
            parts.append(self._row_features(params, source.grid_part(len(parts)), num_threads))
        return FrameFeatures(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))

    def _row_features(self, params: PyTree, source: Source, num_threads: int) -> FrameFeatures:
        """Computes the features of the frames of every row of a split's videos, as float32 in any precision."""
        encode = compiled(self.model, "frame_features", self.mesh)

        def with_mask(params: PyTree, frames: Frames, mask: Bool[jax.Array, "b f"]) -> tuple[jax.Array, jax.Array]:
            return encode(params, frames, mask).astype(np.float32), mask

        (features, mask), _, is_video = self._all_videos(with_mask, params, source, num_threads)
        # The videos come in the order of the split, then padding.
        return FrameFeatures(*(x[: source.split.num_videos] for x in (features, mask & is_video[:, None])))

    def _all_videos(
        self, encode: Callable, params: PyTree, source: Source, num_threads: int
    ) -> tuple[PyTree, Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Encodes every video of a split; see `_encode_all`."""
        with (
            Progress(source.split.num_videos, f"encode videos, {source.split.name}") as progress,
            video_batches(source, self.batch_size, self.local_rows, num_threads=num_threads) as videos,
        ):
            found = self._encode_all(encode, params, videos, progress)
        share_unreadable(source)
        return found

    def _encode_all(
        self, encode: Callable, params: PyTree, batches: Iterable[TextBatch | VideoBatch], progress: Progress
    ) -> tuple[PyTree, Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Encodes all batches and concatenates their encodings, indices and masks."""
        parts = []
        for batch in batches:
            inputs, mask, index, real = put_batch(batch, self.mesh)
            parts.append(to_host((encode(params, inputs, mask), index, real)))
            progress.update(int(parts[-1][2].sum()))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def share_unreadable(source: Source) -> None:
    """Tells every process which videos the others could not read. All processes must call this.

    Raises:
      DataError: If more videos are unreadable, on all processes together, than the source allows.
    """
    for found in gather(source.unreadable.copy()):
        source.learn_unreadable(found)


def _groups(records: Sequence[Record]) -> Int[np.ndarray, " a"] | None:
    names = [record.group for record in records]
    return None if None in names else np.unique(names, return_inverse=True)[1].astype(np.int32)


def equal_blocks(count: int, size: int) -> Iterator[Int[np.ndarray, " {size}"]]:
    """Yields the numbers below `count` in blocks of one shape, so that one program serves all.

    The last block repeats its last number; drop what follows the first `count` results.
    """
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def with_sharding(shapes: PyTree, sharding: NamedSharding) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes with a sharding."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def to_host(tree: PyTree) -> PyTree:
    """Copies global arrays to numpy on every process, and notes the progress."""
    watchdog.beat()
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)
