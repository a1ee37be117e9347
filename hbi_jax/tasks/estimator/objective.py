"""The objective of the estimator: regression of the interaction on the similarities."""

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
    """Returns the mean squared error over the real cells of the matched pairs, averaged over the levels.

    One network serves all levels, as in the published code.

    Args:
      model: Computes the similarities; not trained.
      net: The estimator.
      labels: The teacher that gives the labels, with the scale of the retrieval teacher.
      params: `{"params": {"hbi": ..., "estimator": ...}}`.
      batch: The matched rows.
      key: The key of sampled labels.
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
