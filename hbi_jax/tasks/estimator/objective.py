"""The objective of the estimator's pre-training: imitate the interaction, seeing the similarities alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.losses import masked_mean
from hbi_jax.models.hbi import HBI
from hbi_jax.train.step import Scalars
from hbi_jax.train.teacher import Teacher, estimator_teacher
from hbi_jax.types import Batch


def estimator_loss(
    model: HBI, net: InteractionNet, labels: Teacher, params: PyTree, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Scalars]:
    """Mean squared error over the real cells of the matched pairs, the mean of the levels.

    One network serves all levels, as the published one does.

    Args:
      model: Makes the similarities; not trained.
      net: The estimator.
      labels: What it imitates, scaled as the teacher of retrieval is.
      params: `{"params": {"hbi": ..., "estimator": ...}}`.
      batch: Matched rows.
      key: For labels that are sampled.
    """
    both = params["params"]
    hbi = {"params": jax.lax.stop_gradient(both["hbi"])}
    alignments = model.apply(hbi, batch)
    predict = estimator_teacher(net, {"params": both["estimator"]}, model.config.padding)
    terms = {}
    for number, (name, alignment) in enumerate(alignments.items()):
        cells = alignment.text.mask[:, :, None] & alignment.video.mask[:, None, :]
        prediction = predict(alignment, key)
        label = jax.lax.stop_gradient(labels(alignment, jax.random.fold_in(key, number)))
        real = cells & batch.example_mask[:, None, None]
        terms[f"loss/{name}/squared_error"] = masked_mean((prediction - label) ** 2, real)
    total = sum(terms.values(), jnp.zeros(())) / len(terms)
    return total, {"loss/total": total, **terms}
