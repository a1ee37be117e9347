"""The objective of captioning: the alignment losses, and the cross-entropy of the captions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import losses
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.tasks.captions.batch import CaptionBatch
from hbi_jax.tasks.captions.config import CaptionLossConfig
from hbi_jax.train.alignment import Term, alignment_terms, gate_means, total
from hbi_jax.train.step import Scalars
from hbi_jax.train.teacher import Teacher
from hbi_jax.types import Batch, texts_of


def caption_loss(
    model: CaptionHBI,
    config: CaptionLossConfig,
    teacher: Teacher,
    params: PyTree,
    batch: Batch | CaptionBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Scalars]:
    """Returns the total loss of a global batch and its terms by name (HBI V2, Eq. 16).

    Terms with weight 0 are neither computed nor returned. `key` is used by dropout and by teachers that sample.
    """
    batch, token_ids, text_mask = batch if isinstance(batch, CaptionBatch) else (batch, *texts_of(batch))
    q, t = token_ids.shape[1:]
    alignments, logits = model.apply(
        params,
        batch,
        deterministic=False,
        token_ids=token_ids,
        text_mask=text_mask,
        rngs={"dropout": jax.random.fold_in(key, len(model.config.levels))},
    )
    scale = jnp.exp(params["params"]["logit_scale"])
    terms = []
    if config.alignment_weight:
        aligned = alignment_terms(config, teacher, alignments, scale, batch, key)
        terms = [term._replace(weight=config.alignment_weight * term.weight) for term in aligned]
    targets, mask = (x.reshape(-1, t)[:, 1:] for x in (token_ids, text_mask))
    if model.vocabulary:
        targets = jnp.searchsorted(jnp.asarray(model.vocabulary), targets)
    example_mask = jnp.repeat(batch.example_mask, q)
    caption = losses.caption_cross_entropy(logits, targets, mask, example_mask, config.label_smoothing)
    terms.append(Term("caption", caption, config.caption_weight))
    return total(terms, scale, gate_means(alignments, batch))
