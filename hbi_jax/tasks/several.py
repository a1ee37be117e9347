"""Several texts of each video in a batch: those of its own record and of others of the same video."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from hbi_jax.data.source import FILLING, Source
from hbi_jax.types import Batch


def several_texts(
    source: Source, batch: Batch, count: int, seed: int, step: int
) -> tuple[Int[np.ndarray, "b q"], Int[np.ndarray, "b q t"], Bool[np.ndarray, "b q t"]]:
    """Each row's record, and others of its video, drawn by (seed, step, record).

    Args:
      source: What the batch is of.
      batch: The matched rows.
      count: Texts a video.
      seed: Seed of the draw.
      step: Number of the batch.

    Returns:
      Numbers of the records, `FILLING` where a video has no more; their token ids, and which of these are real.
    """
    records = np.full((len(batch.record_index), count), FILLING, np.int32)
    for row, (own, video) in enumerate(zip(batch.record_index.tolist(), batch.video_index.tolist(), strict=True)):
        others = source.records_of[video]
        others = np.random.default_rng((seed, step, own)).permutation(others[others != own])
        chosen = [own, *others[: count - 1]]
        records[row, : len(chosen)] = chosen
    token_ids, mask = (x.reshape(*records.shape, -1) for x in source.text_rows(records.reshape(-1)))
    return records, token_ids, mask


def abstract_several(count: int, *leaves: jax.ShapeDtypeStruct) -> Sequence[jax.ShapeDtypeStruct]:
    """Shapes of what there is `count` times for each row."""
    return [jax.ShapeDtypeStruct((leaf.shape[0], count, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
