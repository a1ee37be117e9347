"""A batch of videos with several captions each."""

from typing import NamedTuple

from jaxtyping import Bool, Int

from hbi_jax.types import ArrayLike, Batch


class CaptionBatch(NamedTuple):
    """Videos with several captions each.

    Attributes:
      batch: One caption of each video, beside the frames.
      token_ids, text_mask: The captions, the row's own first; all False if a video has no more.
    """

    batch: Batch
    token_ids: Int[ArrayLike, "b q t"]
    text_mask: Bool[ArrayLike, "b q t"]
