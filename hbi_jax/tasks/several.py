"""Several texts per video in a batch: the row's own text and other texts of the same video."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from hbi_jax.data.source import FILLING, Source
from hbi_jax.types import Batch


def several_texts(
    source: Source, batch: Batch, count: int, seed: int, step: int
) -> tuple[Int[np.ndarray, "b q"], Int[np.ndarray, "b q t"], Bool[np.ndarray, "b q t"]]:
    """Returns each row's own text and randomly drawn other texts of its video.

    The draw depends only on (seed, step, record).

    Args:
      source: The split that the batch comes from.
      batch: The matched rows.
      count: Texts per video.
      seed: Seed of the draw.
      step: Number of the step.

    Returns:
      The record indices (`FILLING` if a video has fewer texts), their token ids, and the mask of real tokens.
    """
    records = np.full((len(batch.record_index), count), FILLING, np.int32)
    for row, (own, video) in enumerate(zip(batch.record_index.tolist(), batch.video_index.tolist(), strict=True)):
        others = source.records_of[video]
        # The 3 separates this random stream from those that are numbered by rows, (seed, step, row, ...).
        others = np.random.default_rng((seed, step, own, 3)).permutation(others[others != own])
        chosen = [own, *others[: count - 1]]
        records[row, : len(chosen)] = chosen
    token_ids, mask = (x.reshape(*records.shape, -1) for x in source.text_rows(records.reshape(-1)))
    return records, token_ids, mask


def abstract_several(count: int, *leaves: jax.ShapeDtypeStruct) -> Sequence[jax.ShapeDtypeStruct]:
    """Returns the shapes of arrays that have `count` entries per row of `leaves`."""
    return [jax.ShapeDtypeStruct((leaf.shape[0], count, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
