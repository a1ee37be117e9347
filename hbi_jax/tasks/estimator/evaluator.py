"""Exact, estimated and sampled interactions of the matched pairs of a gallery."""

import dataclasses
import functools
from collections import OrderedDict
from operator import itemgetter

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from hbi_jax import banzhaf
from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.choices import Padding
from hbi_jax.data.source import Source
from hbi_jax.models.similarity import pair_similarity
from hbi_jax.parallel.mesh import put_everywhere, replicated
from hbi_jax.tasks.estimator.metrics import Agreement, agreement
from hbi_jax.tasks.gallery import GalleryEncoder, equal_blocks, to_host
from hbi_jax.types import WeightedTokens

_PAIRS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The interactions of a gallery's matched pairs at one level, all with the same scale.

    Attributes:
      exact: The interaction in closed form.
      estimate: The network's estimate.
      sample: The Monte Carlo estimate.
      text_mask, video_mask: True at real tokens.
    """

    exact: Float[np.ndarray, "n t v"]
    estimate: Float[np.ndarray, "n t v"]
    sample: Float[np.ndarray, "n t v"]
    text_mask: Bool[np.ndarray, "n t"]
    video_mask: Bool[np.ndarray, "n v"]

    @property
    def cells(self) -> Bool[np.ndarray, "n t v"]:
        """The mask of cells whose word and frame are both real."""
        return self.text_mask[:, :, None] & self.video_mask[:, None, :]

    def agreement(self, values: Float[np.ndarray, "n t v"]) -> Agreement:
        """Compares `values`, such as `estimate`, with the exact interaction."""
        return agreement(values, self.exact, self.text_mask, self.video_mask)


class InteractionEvaluator:
    """An evaluator that compares estimates of the interaction on the matched pairs of a split.

    Attributes:
      encoder: The encoder of the split.
    """

    def __init__(
        self,
        encoder: GalleryEncoder,
        net: InteractionNet,
        scale: float,
        num_samples: int,
        padding: Padding = "masked",
    ):
        """Prepares the compiled comparison.

        Args:
          encoder: Encodes the split.
          net: The estimator.
          scale: The factor of exact and sampled interactions; the estimator is trained on scaled interactions.
          num_samples: Coalitions per pair of the Monte Carlo estimate.
          padding: The padding mode of the model; with `published` the estimator treats padded cells like real ones.
        """
        self.encoder = encoder

        @functools.partial(jax.jit, out_shardings=replicated(encoder.mesh))
        def compare(
            params: PyTree, text: WeightedTokens, video: WeightedTokens, key: Key[Array, ""]
        ) -> tuple[Array, ...]:
            similarity = pair_similarity(text, video)
            game = (similarity, text.logits, video.logits, text.mask, video.mask)
            cells = text.mask[:, :, None] & video.mask[:, None, :] if padding == "masked" else None
            sample = banzhaf.sample_similarity(*game, key, num_samples)
            exact = banzhaf.interaction(*game)
            return scale * exact, net.apply(params, similarity, cells), scale * sample

        self._compare = compare

    def compare(self, hbi: PyTree, estimator: PyTree, source: Source, num_threads: int = 1) -> OrderedDict[str, Pairs]:
        """Encodes a split once and compares the interactions of its matched pairs at every level.

        Args:
          hbi: The variables of the model that computes the similarities.
          estimator: The variables of the network.
          source: The split.
          num_threads: Number of decoding threads.

        Returns:
          The pairs by level name.

        Raises:
          DataError: If more videos are unreadable than the source allows.
        """
        gallery = self.encoder.encode(hbi, source, num_threads)
        videos = jax.tree.map(itemgetter(gallery.text_to_video), gallery.video.levels)
        found = OrderedDict()
        for level, (name, text) in enumerate(gallery.text.levels.items()):
            video, count, blocks = videos[name], len(text.mask), []
            for block in equal_blocks(count, _PAIRS_AT_ONCE):
                key = jax.random.fold_in(jax.random.key(level), int(block[0]))
                pairs = jax.tree.map(itemgetter(block), (text, video))
                pairs = put_everywhere(pairs, replicated(self.encoder.mesh))
                blocks.append(to_host(self._compare(estimator, *pairs, key)))
            arrays = [np.concatenate(parts)[:count] for parts in zip(*blocks, strict=True)]
            found[name] = Pairs(*arrays, np.asarray(text.mask), np.asarray(video.mask))
        return found
