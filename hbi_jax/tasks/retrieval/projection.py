"""Tokens of matched pairs as points in the plane, by t-SNE (HBI V2, Fig. 10)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# Of t-SNE: the number of neighbours that a point is kept close to, if there are enough points.
_PERPLEXITY = 30


class Embedded(NamedTuple):
    """The tokens of some matched pairs; row `i` of both sides belongs together.

    Attributes:
      name: What the tokens are, such as `before training`.
      words, frames: The tokens of both sides.
      word_mask, frame_mask: True at real tokens.
    """

    name: str
    words: Float[np.ndarray, "n t d"]
    word_mask: Bool[np.ndarray, "n t"]
    frames: Float[np.ndarray, "n v d"]
    frame_mask: Bool[np.ndarray, "n v"]


def project(embedded: Embedded) -> tuple[list[Float[np.ndarray, "w 2"]], list[Float[np.ndarray, "f 2"]]]:
    """Returns the real words and the real frames of each pair as points in the plane, by t-SNE of their cosines.

    All tokens are projected together, so that near points are similar tokens, of whatever side and pair. The result is
    a function of the tokens only. Tokens that do not differ, and fewer than three, are all at the origin.
    """
    # Importing it takes a second.
    from sklearn.manifold import TSNE

    sides = (embedded.words, embedded.word_mask), (embedded.frames, embedded.frame_mask)
    parts = [
        tokens[mask].astype(np.float32)
        for all_tokens, masks in sides
        for tokens, mask in zip(all_tokens, masks, strict=True)
    ]
    # A model that has diverged still gets its report.
    points = np.nan_to_num(np.concatenate(parts), posinf=0, neginf=0)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    plane = np.zeros((len(points), 2), np.float32)
    # Of equal points, the library would divide by their spread and end the process.
    if len(points) >= 3 and np.ptp(points, axis=0).max() > 1e-6:
        perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
        # The approximate method is for many points; of few, its threads take most of the time waiting for one another.
        tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0, method="exact")
        plane = tsne.fit_transform(points)
    found = np.split(plane, np.cumsum([len(part) for part in parts])[:-1])
    return found[: len(embedded.words)], found[len(embedded.words) :]
