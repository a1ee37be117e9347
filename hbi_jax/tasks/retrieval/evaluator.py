"""Retrieval over encoded galleries: the similarity of every text to every video, in blocks."""

from collections import OrderedDict
from collections.abc import Mapping
from operator import itemgetter

import jax
import numpy as np
from flax.core import FrozenDict
from jax.sharding import Mesh
from jaxtyping import Float, Int, PyTree

from hbi_jax.models.hbi import HBI
from hbi_jax.models.similarity import in_float32, normalize
from hbi_jax.parallel.mesh import batch_sharding, put_everywhere, replicated
from hbi_jax.tasks.gallery import Gallery, GalleryEncoder, Program, compiled, equal_blocks, to_host, with_sharding
from hbi_jax.types import Batch, Encoded, Match


class RetrievalEvaluator:
    """A scorer of galleries, compiled once per number of videos for all parameters.

    Attributes:
      encoder: The encoder of the galleries.
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
        self._levels = compiled(model, "gallery_similarity", mesh, FrozenDict(level_rates), video_block)

        def pooled(params: PyTree, text: Encoded, video: Encoded) -> Float[jax.Array, "a b"]:
            del params
            with in_float32():
                return normalize(text.pooled) @ normalize(video.pooled).T

        self._pooled = jax.jit(pooled, out_shardings=batch_sharding(mesh))

    def program(self, params: PyTree, rows: Batch, num_videos: int) -> Program:
        """Returns the program that scores a block of texts against all videos of a gallery.

        Args:
          params: The shapes of the model's variables.
          rows: The shapes of a batch of `encoder.batch_size` rows.
          num_videos: Number of videos of the gallery.
        """
        mesh, encoding = self.encoder.mesh, self.encoder.programs(params, rows)
        text, video = (jax.eval_shape(program.function, *program.arguments) for program in encoding.values())
        video = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_videos, *leaf.shape[1:]), leaf.dtype), video)
        both = with_sharding(text, batch_sharding(mesh)), with_sharding(video, replicated(mesh))
        return Program(self._levels, (params, *both))

    def match(self, params: PyTree, gallery: Gallery, rows: Int[np.ndarray, " n"], level: str) -> Match:
        """Returns the games of some texts of a gallery with their videos, in numpy.

        Args:
          params: The variables that the gallery was encoded with.
          gallery: A gallery encoded by `encoder`.
          rows: The texts, by their rows in the gallery.
          level: The name of the level.
        """
        mesh, size = self.encoder.mesh, self.encoder.batch_size
        texts, videos = (
            Encoded(OrderedDict({level: side.levels[level]}), side.pooled) for side in (gallery.text, gallery.video)
        )
        play, sharding, blocks = compiled(self.encoder.model, "match", mesh, level), batch_sharding(mesh), []
        for places in equal_blocks(len(rows), size):
            text = jax.tree.map(itemgetter(rows[places]), texts)
            video = jax.tree.map(itemgetter(gallery.text_to_video[rows[places]]), videos)
            blocks.append(to_host(play(params, *put_everywhere((text, video), sharding))))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *blocks)

    def similarity(self, params: PyTree, gallery: Gallery, pooled: bool = False) -> Float[np.ndarray, "a b"]:
        """Returns the similarity of every text to every video of a gallery.

        Args:
          params: The variables that the gallery was encoded with.
          gallery: A gallery encoded by `encoder`.
          pooled: Whether to return the cosine of sentence vector and mean frame instead of the levels' similarities.
        """
        score, mesh, size = self._pooled if pooled else self._levels, self.encoder.mesh, self.encoder.batch_size
        video = put_everywhere(gallery.video, replicated(mesh))
        num_texts = len(gallery.record_index)
        rows, blocks = batch_sharding(mesh), []
        for block in equal_blocks(num_texts, size):
            text = put_everywhere(jax.tree.map(itemgetter(block), gallery.text), rows)
            blocks.append(to_host(score(params, text, video)))
        return np.concatenate(blocks)[:num_texts]
