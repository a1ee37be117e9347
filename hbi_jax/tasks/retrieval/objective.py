"""The objective of retrieval: the alignment losses."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax.models.hbi import HBI
from hbi_jax.train.alignment import alignment_terms, gate_means, total
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.step import Scalars
from hbi_jax.train.teacher import Teacher
from hbi_jax.types import Batch


def retrieval_loss(
    model: HBI, config: AlignmentLossConfig, teacher: Teacher, params: PyTree, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Scalars]:
    """Returns the total loss of a global batch and its terms by name (HBI V2, Eq. 14 and 16).

    Terms with weight 0 are neither computed nor returned. `key` is used by teachers that sample.
    """
    alignments = model.apply(params, batch)
    scale = jnp.exp(params["params"]["logit_scale"])
    terms = alignment_terms(config, teacher, alignments, scale, batch, key)
    return total(terms, scale, gate_means(alignments, batch))
