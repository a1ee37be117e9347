"""A batch of videos with several captions each."""

from typing import NamedTuple

from jaxtyping import Bool, Int

from hbi_jax.types import ArrayLike, Batch


class CaptionBatch(NamedTuple):
    """Videos with several captions each.

    Attributes:
      batch: The matched rows: the frames, and one caption per video.
      token_ids, text_mask: All captions per video, the row's own first; the mask is False where a video has no more.
    """

    batch: Batch
    token_ids: Int[ArrayLike, "b q t"]
    text_mask: Bool[ArrayLike, "b q t"]
