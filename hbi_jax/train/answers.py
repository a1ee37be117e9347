"""The objective of question answering: that of the alignments, and the right answer at every level."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import losses
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.train.objective import LossConfig, Terms, alignment_terms, gate_means, total
from hbi_jax.train.teacher import Teacher
from hbi_jax.types import AnswerBatch


@dataclasses.dataclass(frozen=True)
class AnswerLossConfig(LossConfig):
    """See the fields of the same names in `hbi_jax.config.default_config`.

    Attributes:
      distil: What the coarser levels learn from the finest: its similarities (HBI V2) or its answers (HBI, CVPR 2023).
      alignment_weight: Multiplies contrast and interaction of every level.
      answer_weight: lambda of Eq. 16: multiplies the cross-entropy of every level.
    """

    distil: Literal["similarity", "answers"] = "similarity"
    alignment_weight: float = 1.0
    answer_weight: float = 2.5


def answer_loss(
    model: AnswerHBI,
    config: AnswerLossConfig,
    teacher: Teacher,
    params: PyTree,
    batch: AnswerBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Terms]:
    """The total loss of a global batch and its terms under their true names (HBI V2, Eq. 16).

    Terms of weight 0 are neither computed nor returned. `key` is for dropout and for a teacher that samples.
    """
    alignments, answers = model.apply(
        params,
        batch.batch,
        deterministic=False,
        token_ids=batch.token_ids,
        text_mask=batch.text_mask,
        rngs={"dropout": jax.random.fold_in(key, len(model.config.levels))},
    )
    scale = jnp.exp(params["params"]["logit_scale"])
    by_answers = config.distil == "answers"
    of_alignment = dataclasses.replace(config, distillation_weight=0.0) if by_answers else config
    # The published answer task, unlike its retrieval, leaves padded cells as they are.
    keep_padding = config.divergence == "published"
    aligned = alignment_terms(of_alignment, teacher, alignments, scale, batch.batch, key, keep_padding)
    terms = {
        name: (weight if name.endswith("/distillation") else config.alignment_weight * weight, value)
        for name, (weight, value) in aligned.items()
    }
    right = batch.answer.reshape(-1)
    rows = jnp.repeat(batch.batch.example_mask, right.size // len(batch.answer))
    finest, *coarser = answers
    for name, logits in answers.items():
        terms[f"{name}/answer"] = (config.answer_weight, losses.answer_cross_entropy(logits, right, rows))
        if by_answers and config.distillation_weight and name in coarser:
            distillation = losses.answer_distillation_loss(logits, answers[finest], rows, config.divergence)
            terms[f"{name}/distillation"] = (config.distillation_weight, distillation)
    return total(terms, scale, gate_means(alignments, batch.batch))
