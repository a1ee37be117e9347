"""What an encoded gallery scores: recalls and ranks of both directions, and accuracy among near-twins."""

from typing import Any

import numpy as np
from jaxtyping import Float

from hbi_jax.metrics import Directed, group_accuracy, retrieval_metrics
from hbi_jax.metrics.retrieval import RSUM_RECALLS
from hbi_jax.tasks.gallery import Gallery


def gallery_metrics(similarity: Float[np.ndarray, "a b"] | Directed, gallery: Gallery) -> dict[str, Any]:
    """Metrics of both directions and, where there are groups of near-twins, the accuracy within them.

    Args:
      similarity: Of every text with every video; or two, one for each direction, as normalisations give them.
      gallery: Whose similarities they are.

    Returns:
      As `hbi_jax.metrics.retrieval_metrics`, with `group_accuracy` where every record has a group.
    """
    if isinstance(similarity, Directed):
        found = gallery_metrics(similarity.t2v, gallery)
        found["v2t"] = gallery_metrics(similarity.v2t, gallery)["v2t"]
        return found | {"Rsum": sum(found[way][name] for way in ("t2v", "v2t") for name in RSUM_RECALLS)}
    metrics = retrieval_metrics(similarity, gallery.text_to_video)
    if gallery.groups is not None:
        metrics["group_accuracy"] = group_accuracy(similarity, gallery.text_to_video, gallery.groups)
    return metrics
