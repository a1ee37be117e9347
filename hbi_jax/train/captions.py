"""The objective of captioning: that of the alignments, and the right next word of every caption."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import losses
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.train.objective import LossConfig, Terms, alignment_terms, gate_means, total
from hbi_jax.train.teacher import Teacher
from hbi_jax.types import Batch, CaptionBatch, texts_of


@dataclasses.dataclass(frozen=True)
class CaptionLossConfig(LossConfig):
    """See the fields of the same names in `hbi_jax.config.default_config`.

    Attributes:
      alignment_weight: Multiplies every term of the alignments.
      caption_weight: lambda of Eq. 16: multiplies the cross-entropy of the captions.
      label_smoothing: Share of every target that is spread evenly over the vocabulary.
    """

    alignment_weight: float = 1.0
    caption_weight: float = 3.3
    label_smoothing: float = 0.0


def caption_loss(
    model: CaptionHBI,
    config: CaptionLossConfig,
    teacher: Teacher,
    params: PyTree,
    batch: Batch | CaptionBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Terms]:
    """The total loss of a global batch and its terms under their true names (HBI V2, Eq. 16).

    Terms of weight 0 are neither computed nor returned. `key` is for dropout and for a teacher that samples.
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
    terms = {}
    if config.alignment_weight:
        aligned = alignment_terms(config, teacher, alignments, scale, batch, key)
        terms = {name: (config.alignment_weight * weight, value) for name, (weight, value) in aligned.items()}
    targets, mask = (x.reshape(-1, t)[:, 1:] for x in (token_ids, text_mask))
    if model.vocabulary:
        targets = jnp.searchsorted(jnp.asarray(model.vocabulary), targets)
    example_mask = jnp.repeat(batch.example_mask, q)
    caption = losses.caption_cross_entropy(logits, targets, mask, example_mask, config.label_smoothing)
    return total({**terms, "caption": (config.caption_weight, caption)}, scale, gate_means(alignments, batch))
