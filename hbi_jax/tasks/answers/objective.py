"""The objective of question answering: the alignment losses, and the cross-entropy of the answers at every level."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import losses
from hbi_jax.models.answer import AnswerHBI
from hbi_jax.tasks.answers.batch import AnswerBatch
from hbi_jax.tasks.answers.config import AnswerLossConfig
from hbi_jax.train.alignment import Term, alignment_terms, gate_means, total
from hbi_jax.train.step import Scalars
from hbi_jax.train.teacher import Teacher


def answer_loss(
    model: AnswerHBI,
    config: AnswerLossConfig,
    teacher: Teacher,
    params: PyTree,
    batch: AnswerBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Scalars]:
    """Returns the total loss of a global batch and its terms by name (HBI V2, Eq. 16).

    Terms with weight 0 are neither computed nor returned. `key` is used by dropout and by teachers that sample.
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
    aligned = alignment_terms(
        config,
        teacher,
        alignments,
        scale,
        batch.batch,
        key,
        distil=not by_answers,
        # The published code sets padded cells to 0 for retrieval but not for question answering.
        keep_padding=config.divergence == "published",
    )
    terms = [
        term if term.kind == "distillation" else term._replace(weight=config.alignment_weight * term.weight)
        for term in aligned
    ]
    right = batch.answer.reshape(-1)
    rows = jnp.repeat(batch.batch.example_mask, right.size // len(batch.answer))
    # An unanswerable question is a question; one that does not exist, as videos have different numbers, is none.
    asked = rows if batch.text_mask is None else rows & batch.text_mask.any(-1).reshape(-1)
    first = next(iter(answers))
    for name, logits in answers.items():
        terms.append(Term("answer", losses.answer_cross_entropy(logits, right, rows), config.answer_weight, name))
        if by_answers and config.distillation_weight and name != first:
            distillation = losses.answer_distillation_loss(logits, answers[first], asked, config.divergence)
            terms.append(Term("distillation", distillation, config.distillation_weight, name))
    return total(terms, scale, gate_means(alignments, batch.batch))
