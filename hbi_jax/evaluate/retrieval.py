"""Retrieval over galleries: every text and every video encoded once, similarities in blocks, ranks."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PyTree

from hbi_jax.data.datasets.records import Record
from hbi_jax.data.pipeline import TextBatch, VideoBatch, text_batches, video_batches
from hbi_jax.data.source import Source
from hbi_jax.metrics.retrieval import group_accuracy, retrieval_metrics
from hbi_jax.models.hbi import HBI
from hbi_jax.models.similarity import normalize
from hbi_jax.parallel import DATA_AXIS, batch_sharding, put_batch, replicated
from hbi_jax.progress import Progress
from hbi_jax.types import Encoded


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A split, encoded. Texts and videos whose video cannot be read are not in it.

    Attributes:
      text, video: What the model made of them, as numpy arrays.
      text_to_video: The row of `video` that belongs to each row of `text`.
      record_index: The record of each row of `text` within its split.
      groups: Number of the group of near-twins of each row of `text`; None where some record has no group.
    """

    text: Encoded
    video: Encoded
    text_to_video: Int[np.ndarray, " a"]
    record_index: Int[np.ndarray, " a"]
    groups: Int[np.ndarray, " a"] | None


class RetrievalEvaluator:
    """Encodes galleries and scores them. Compiled once, for all galleries and parameters."""

    def __init__(self, model: HBI, mesh: Mesh, batch_size: int, video_block: int, level_rates: Sequence[float]):
        """Prepares the compiled functions.

        Args:
          model: The model.
          mesh: The devices; rows lie along its data axis.
          batch_size: Texts or videos at a time, rounded up to what the mesh divides.
          video_block: Videos of a similarity block.
          level_rates: How much the similarity of each level counts.
        """
        self._mesh = mesh
        data = mesh.shape[DATA_AXIS]
        self._batch_size = -(-batch_size // data) * data
        rows = batch_sharding(mesh)

        def encoder(method: str) -> Callable[..., Encoded]:
            def encode(params, inputs, mask):
                return model.apply(params, inputs, mask, method=method)

            return jax.jit(encode, out_shardings=rows)

        def levels(params: PyTree, text: Encoded, video: Encoded) -> Float[jax.Array, "a b"]:
            return model.apply(params, text, video, level_rates, video_block, method="gallery_similarity")

        def pooled(params: PyTree, text: Encoded, video: Encoded) -> Float[jax.Array, "a b"]:
            del params
            return normalize(text.pooled) @ normalize(video.pooled).T

        self._encode_text, self._encode_video = encoder("encode_text"), encoder("encode_video")
        self._levels, self._pooled = jax.jit(levels, out_shardings=rows), jax.jit(pooled, out_shardings=rows)

    def encode(self, params: PyTree, source: Source, num_threads: int = 1) -> Gallery:
        """Encodes every text and every video of a split, each once.

        Args:
          params: The model's variables.
          source: The split.
          num_threads: Threads that decode.

        Raises:
          DataError: If more videos than the source allows cannot be read.
        """
        process = (jax.process_index(), jax.process_count())
        with Progress(len(source.split.records), f"encode texts, {source.split.name}") as progress:
            texts = text_batches(source, self._batch_size, *process)
            text, record_index, is_text = self._encode_all(self._encode_text, params, texts, progress)
        video, place = self.encode_videos(params, source, num_threads)
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
          num_threads: Threads that decode.

        Returns:
          The readable videos, and the row of each video of the split among them; -1 where it cannot be read.

        Raises:
          DataError: If more videos than the source allows cannot be read.
        """
        with (
            Progress(source.split.num_videos, f"encode videos, {source.split.name}") as progress,
            video_batches(
                source, self._batch_size, jax.process_index(), jax.process_count(), num_threads=num_threads
            ) as videos,
        ):
            video, video_index, is_video = self._encode_all(self._encode_video, params, videos, progress)
        place = np.full(source.split.num_videos, -1, np.int32)
        place[video_index[is_video]] = np.arange(is_video.sum())
        return jax.tree.map(lambda x: x[is_video], video), place

    def _encode_all(
        self, encode: Callable, params: PyTree, batches: Iterable[TextBatch | VideoBatch], progress: Progress
    ) -> tuple[Encoded, Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Encodings, indices and masks of all batches, one after the other."""
        parts = []
        for batch in batches:
            inputs, mask, index, real = put_batch(batch, self._mesh)
            parts.append(to_host((encode(params, inputs, mask), index, real)))
            progress.update(int(parts[-1][2].sum()))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def similarity(self, params: PyTree, gallery: Gallery, pooled: bool = False) -> Float[np.ndarray, "a b"]:
        """Similarity of every text with every video of a gallery.

        Args:
          params: The model's variables, with which the gallery was encoded.
          gallery: Encoded by this object's model.
          pooled: The cosine of sentence vector and mean frame instead of the levels' similarities.
        """
        score = self._pooled if pooled else self._levels
        video = jax.device_put(gallery.video, replicated(self._mesh))
        num_texts = len(gallery.record_index)
        rows, blocks = batch_sharding(self._mesh), []
        for start in range(0, num_texts, self._batch_size):
            # One shape for all blocks: the last one repeats its last row.
            block = np.minimum(np.arange(start, start + self._batch_size), num_texts - 1)
            text = jax.device_put(jax.tree.map(itemgetter(block), gallery.text), rows)
            blocks.append(to_host(score(params, text, video)))
        return np.concatenate(blocks)[:num_texts]


def _groups(records: Sequence[Record]) -> Int[np.ndarray, " a"] | None:
    names = [record.group for record in records]
    return None if None in names else np.unique(names, return_inverse=True)[1].astype(np.int32)


def to_host(tree: PyTree) -> PyTree:
    """The whole arrays as numpy, on every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def gallery_metrics(similarity: Float[np.ndarray, "a b"], gallery: Gallery) -> dict:
    """Metrics of both directions and, where there are groups of near-twins, the accuracy within them."""
    metrics = retrieval_metrics(similarity, gallery.text_to_video)
    if gallery.groups is not None:
        metrics["group_accuracy"] = group_accuracy(similarity, gallery.text_to_video, gallery.groups)
    return metrics
