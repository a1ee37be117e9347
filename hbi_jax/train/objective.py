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


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """See the fields of the same names in `hbi_jax.config.default_config`."""

    interaction_weight: float = 1.0
    distillation_weight: float = 1.0
    distillation_temperature: float = 1.0
    mask_same_video: bool = True


def retrieval_loss(
    model: HBI, config: LossConfig, teacher: Teacher, params: PyTree, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Terms]:
    """The total loss of a global batch and its terms under their true names (HBI V2, Eq. 14 and 16).

    Terms of weight 0 are neither computed nor returned. `key` is for a teacher that samples.
    """
    alignments: dict[str, Alignment] = model.apply(params, batch)
    scale = jnp.exp(params["params"]["logit_scale"])
    rows = batch.example_mask
    mask = losses.negatives_mask(batch.video_index, rows, config.mask_same_video)
    finest = next(iter(alignments.values()))

    total, terms = jnp.zeros(()), {}
    for number, (name, alignment) in enumerate(alignments.items()):
        weighted = {"contrastive": (1.0, losses.contrastive_loss(scale * alignment.similarity, mask, rows))}
        if config.interaction_weight:
            interaction = losses.interaction_loss(
                alignment.pair_prediction,
                teacher(alignment, jax.random.fold_in(key, number)),
                alignment.text.mask & rows[:, None],
                alignment.video.mask & rows[:, None],
            )
            weighted["interaction"] = (config.interaction_weight, interaction)
        if config.distillation_weight and alignment is not finest:
            distillation = losses.distillation_loss(
                alignment.similarity, finest.similarity, mask, rows, config.distillation_temperature
            )
            weighted["distillation"] = (config.distillation_weight, distillation)
        for term, (weight, value) in weighted.items():
            total += weight * value
            terms[f"loss/{name}/{term}"] = value
    return total, {"loss/total": total, "logit_scale": scale, **terms}
