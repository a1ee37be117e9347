"""Metrics of an encoded gallery: recalls and ranks in both directions, and accuracy among near-twins."""

from typing import Any

import numpy as np
from jaxtyping import Float

from hbi_jax.metrics import Directed, group_accuracy, retrieval_metrics
from hbi_jax.metrics.retrieval import rsum
from hbi_jax.tasks.gallery import Gallery


def gallery_metrics(similarity: Float[np.ndarray, "a b"] | Directed, gallery: Gallery) -> dict[str, Any]:
    """Computes the metrics of both directions and, if there are groups of near-twins, the in-group accuracy.

    Args:
      similarity: The similarity of every text to every video, or a pair with one for each direction, as returned by
        normalisations.
      gallery: The gallery of the similarities.

    Returns:
      The metrics of `hbi_jax.metrics.retrieval_metrics`, and `group_accuracy` if every record has a group.
    """
    if isinstance(similarity, Directed):
        found = gallery_metrics(similarity.t2v, gallery)
        found["v2t"] = gallery_metrics(similarity.v2t, gallery)["v2t"]
        return found | {"Rsum": rsum(found["t2v"], found["v2t"])}
    metrics = retrieval_metrics(similarity, gallery.text_to_video)
    if gallery.groups is not None:
        metrics["group_accuracy"] = group_accuracy(similarity, gallery.text_to_video, gallery.groups)
    return metrics
