"""A batch of questions with their answers."""

from typing import NamedTuple

from jaxtyping import Bool, Int

from hbi_jax.types import ArrayLike, Batch


class AnswerBatch(NamedTuple):
    """Questions with their videos, and their answers.

    Attributes:
      batch: The questions as texts, beside the frames; one question of each video if there are several.
      answer: Number of the right answer in the vocabulary; -1 if the vocabulary lacks it, or there is no question.
      token_ids, text_mask: The questions, the row's own first, if each video has several.
    """

    batch: Batch
    answer: Int[ArrayLike, "*bq"]
    token_ids: Int[ArrayLike, "b q t"] | None = None
    text_mask: Bool[ArrayLike, "b q t"] | None = None
