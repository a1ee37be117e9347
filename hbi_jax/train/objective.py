"""The objective of retrieval: Eq. 14 at every level, and the distillation of Eq. 16 between them."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax import losses
from hbi_jax.models.hbi import HBI
from hbi_jax.train.teacher import Teacher
from hbi_jax.types import Alignment, Batch

Terms = dict[str, Float[Array, ""]]
# Weight and value of every term of a loss, in the order in which they are added.
WeightedTerms = dict[str, tuple[float, Float[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """See the fields of the same names in `hbi_jax.config.default_config`."""

    interaction_weight: float = 1.0
    distillation_weight: float = 1.0
    distillation_temperature: float = 1.0
    distillation_paths: tuple[tuple[str, str], ...] = ()
    mask_same_video: bool = True
    divergence: losses.Divergence = "paper"


def retrieval_loss(
    model: HBI, config: LossConfig, teacher: Teacher, params: PyTree, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Terms]:
    """The total loss of a global batch and its terms under their true names (HBI V2, Eq. 14 and 16).

    Terms of weight 0 are neither computed nor returned. `key` is for a teacher that samples.
    """
    alignments: dict[str, Alignment] = model.apply(params, batch)
    scale = jnp.exp(params["params"]["logit_scale"])
    terms = alignment_terms(config, teacher, alignments, scale, batch, key)
    return total(terms, scale, gate_means(alignments, batch))


def alignment_terms(
    config: LossConfig,
    teacher: Teacher,
    alignments: dict[str, Alignment],
    scale: Float[Array, ""],
    batch: Batch,
    key: Key[Array, ""],
    keep_padding: bool = False,
) -> WeightedTerms:
    """What every level's alignment is trained by: contrast, interaction and distillation of similarities.

    Args:
      config: The weights; a term of weight 0 is not computed.
      teacher: Of the interaction.
      alignments: From fine to coarse.
      scale: Inverse temperature of the contrastive loss.
      batch: The global batch that was aligned.
      key: For a teacher that samples.
      keep_padding: The interaction loss takes padded cells as header and teacher fill them.

    Returns:
      Weight and value of each term by level and name, `entity/contrastive`.
    """
    rows = batch.example_mask
    mask = losses.negatives_mask(batch.video_index, rows, config.mask_same_video)
    finest, *coarser = alignments
    paths = config.distillation_paths or tuple((finest, name) for name in coarser)

    terms = {}
    for number, (name, alignment) in enumerate(alignments.items()):
        terms[f"{name}/contrastive"] = (1.0, losses.contrastive_loss(scale * alignment.similarity, mask, rows))
        if config.interaction_weight:
            interaction = losses.interaction_loss(
                alignment.pair_prediction,
                teacher(alignment, jax.random.fold_in(key, number)),
                (alignment.text.mask | keep_padding) & rows[:, None],
                (alignment.video.mask | keep_padding) & rows[:, None],
                config.divergence,
            )
            terms[f"{name}/interaction"] = (config.interaction_weight, interaction)
        teachers = [teacher_name for teacher_name, student in paths if student == name]
        if config.distillation_weight and teachers:
            distillation = sum(
                losses.distillation_loss(
                    alignment.similarity,
                    alignments[teacher_name].similarity,
                    mask,
                    rows,
                    config.distillation_temperature,
                    config.divergence,
                )
                for teacher_name in teachers
            )
            terms[f"{name}/distillation"] = (config.distillation_weight, distillation)
    return terms


def total(terms: WeightedTerms, scale: Float[Array, ""], others: Terms) -> tuple[Float[Array, ""], Terms]:
    """The weighted sum of the terms, and what is logged: every value before its weight, and `others`."""
    loss = jnp.zeros(())
    for weight, value in terms.values():
        loss += weight * value
    logged = {f"loss/{name}": value for name, (_, value) in terms.items()}
    return loss, {"loss/total": loss, "logit_scale": scale, **logged, **others}


def gate_means(alignments: dict[str, Alignment], batch: Batch) -> Terms:
    """Mean of delta (words) and gamma (frames) over the real tokens of matched pairs, by level (HBI V2, Fig. 9).

    Nothing where nothing is reconstructed.
    """
    out = {}
    for name, alignment in alignments.items():
        for side, tokens in (("text", alignment.text), ("video", alignment.video)):
            gate = getattr(alignment, f"{side}_gate")
            if gate is not None:
                out[f"gate/{name}/{side}"] = losses.masked_mean(gate, tokens.mask & batch.example_mask[:, None])
    return out
