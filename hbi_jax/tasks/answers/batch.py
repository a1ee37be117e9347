"""A batch of questions with their answers."""

from typing import NamedTuple

from jaxtyping import Bool, Int

from hbi_jax.types import ArrayLike, Batch


class AnswerBatch(NamedTuple):
    """Questions with their videos and answers.

    Attributes:
      batch: The matched rows: the frames, and the row's own question as text.
      answer: The index of the right answer in the vocabulary; -1 if the vocabulary lacks it, or there is no question.
      token_ids, text_mask: All questions per video, the row's own first; None if there is one question per video.
    """

    batch: Batch
    answer: Int[ArrayLike, "*bq"]
    token_ids: Int[ArrayLike, "b q t"] | None = None
    text_mask: Bool[ArrayLike, "b q t"] | None = None
