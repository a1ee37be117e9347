"""Retrieval over encoded galleries: the similarity of every text to every video, in blocks."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from operator import itemgetter

import jax
import numpy as np
from flax.core import FrozenDict
from jax.sharding import Mesh
from jaxtyping import Float, Int, PyTree, UInt8

from hbi_jax.memory import give_back
from hbi_jax.models.hbi import HBI
from hbi_jax.models.scorer import scored
from hbi_jax.models.similarity import in_float32, normalize
from hbi_jax.parallel.mesh import DATA_AXIS, batch_sharding, put_everywhere
from hbi_jax.tasks.gallery import Gallery, GalleryEncoder, Program, compiled, equal_blocks, to_host, with_sharding
from hbi_jax.types import Batch, Encoded, Match

# Videos that a block of texts is scored with at a time.
_COLUMNS = 256


class RetrievalEvaluator:
    """A scorer of galleries, compiled once for galleries of any size and all parameters.

    Attributes:
      encoder: The encoder of the galleries.
      num_columns: Videos that a block of texts is scored with at a time, a multiple of the mesh's data axis.
    """

    def __init__(self, model: HBI, mesh: Mesh, *, batch_size: int, video_block: int, level_rates: Mapping[str, float]):
        """Prepares the compiled functions.

        Args:
          model: The model.
          mesh: The devices; rows lie along its data axis.
          batch_size: Texts or videos per batch, rounded up to a multiple of the mesh's data axis.
          video_block: Videos per similarity block.
          level_rates: The weight of each level's similarity, by level name.
        """
        self.encoder = GalleryEncoder(model, mesh, batch_size)
        data = mesh.shape[DATA_AXIS]
        self.num_columns = -(-_COLUMNS // data) * data
        # What depends on one side alone is computed once for a gallery, not for every block of the other side.
        self._text_sides, self._video_sides = (
            compiled(model, name, mesh, scored(level_rates)) for name in ("text_sides", "video_sides")
        )
        self._levels = compiled(model, "sides_similarity", mesh, FrozenDict(level_rates), video_block)

        def pooled(params: PyTree, text: Encoded, video: Encoded) -> Float[jax.Array, "a b"]:
            del params
            with in_float32():
                return normalize(text.pooled) @ normalize(video.pooled).T

        self._pooled = jax.jit(pooled, out_shardings=batch_sharding(mesh))

    def program(self, params: PyTree, rows: Batch) -> Program:
        """Returns the program that scores a block of texts against a block of the videos of a gallery.

        Args:
          params: The shapes of the model's variables.
          rows: The shapes of a batch of `encoder.batch_size` rows.
        """
        mesh, encoding = self.encoder.mesh, self.encoder.programs(params, rows)
        text, video = (jax.eval_shape(program.function, *program.arguments) for program in encoding.values())
        video = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((self.num_columns, *leaf.shape[1:]), leaf.dtype), video)
        sides = jax.eval_shape(self._text_sides, params, text), jax.eval_shape(self._video_sides, params, video)
        return Program(self._levels, (params, *with_sharding(sides, batch_sharding(mesh))))

    def match(self, params: PyTree, gallery: Gallery, rows: Int[np.ndarray, " n"], level: str) -> Match:
        """Returns the games of some texts of a gallery with their videos, in numpy.

        Args:
          params: The variables that the gallery was encoded with.
          gallery: A gallery encoded by `encoder`.
          rows: The texts, by their rows in the gallery.
          level: The name of the level.
        """
        texts, videos = (
            Encoded(OrderedDict({level: side.levels[level]}), side.pooled) for side in (gallery.text, gallery.video)
        )
        play = compiled(self.encoder.model, "match", self.encoder.mesh, level)

        def matched(places: Int[np.ndarray, " b"]) -> Match:
            text = jax.tree.map(itemgetter(rows[places]), texts)
            video = jax.tree.map(itemgetter(gallery.text_to_video[rows[places]]), videos)
            return play(params, *self._put((text, video)))

        return self._in_blocks(matched, len(rows))

    def patches(self, params: PyTree, frames: UInt8[np.ndarray, "n h w 3"]) -> Encoded:
        """Returns the patches of frames, each of which is encoded like a video, in numpy.

        Args:
          params: The model's variables.
          frames: Pixels in 0..255.
        """
        encode = compiled(self.encoder.model, "encode_patches", self.encoder.mesh)
        return self._in_blocks(lambda places: encode(params, self._put(frames[places])), len(frames))

    def _put(self, rows: PyTree) -> PyTree:
        """Returns rows, which all processes have, along the mesh's data axis."""
        return put_everywhere(rows, batch_sharding(self.encoder.mesh))

    def _in_blocks(self, compute: Callable[[Int[np.ndarray, " b"]], PyTree], count: int) -> PyTree:
        """Returns what a function computes of the numbers below `count`, which it gets in blocks of one size."""
        blocks = [to_host(compute(places)) for places in equal_blocks(count, self.encoder.batch_size)]
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *blocks)

    def similarity(self, params: PyTree, gallery: Gallery, pooled: bool = False) -> Float[np.ndarray, "a b"]:
        """Returns the similarity of every text to every video of a gallery.

        Args:
          params: The variables that the gallery was encoded with.
          gallery: A gallery encoded by `encoder`.
          pooled: Whether to return the cosine of sentence vector and mean frame instead of the levels' similarities.
        """
        num_texts, num_videos = len(gallery.record_index), len(gallery.video.pooled)
        if pooled:
            score, text_sides, video_sides = self._pooled, _unchanged, _unchanged
        else:
            score, text_sides, video_sides = self._levels, self._text_sides, self._video_sides

        def put(side: Encoded, block: Int[np.ndarray, " n"]) -> Encoded:
            return self._put(jax.tree.map(itemgetter(block), side))

        blocks = equal_blocks(num_videos, self.num_columns)
        columns = jax.block_until_ready([video_sides(params, put(gallery.video, block)) for block in blocks])
        # The blocks of the videos, and what compiling left.
        give_back()
        scores = []
        for block in equal_blocks(num_texts, self.encoder.batch_size):
            texts = text_sides(params, put(gallery.text, block))
            # All columns are computed while the first is fetched.
            parts = [score(params, texts, videos) for videos in columns]
            scores.append(np.concatenate([to_host(part) for part in parts], axis=1)[:, :num_videos])
        return np.concatenate(scores)[:num_texts]


def _unchanged(params: PyTree, encoded: Encoded) -> Encoded:
    del params
    return encoded
