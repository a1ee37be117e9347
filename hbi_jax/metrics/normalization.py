"""Post-hoc normalisation of similarities against hubs: candidates that are close to many queries.

Plain numpy on the host. Both methods use more than one query: dual softmax uses all test queries, the querybank uses
queries of the training set. Neither measures how a model answers a single query by itself.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Directed(NamedTuple):
    """Scores of every text (row) with every video (column), separate for the two directions.

    Attributes:
      t2v: Ranks the videos for a text; rows are not comparable with each other.
      v2t: Ranks the texts for a video; columns are not comparable with each other.
    """

    t2v: Float[np.ndarray, "a b"]
    v2t: Float[np.ndarray, "a b"]


def dual_softmax(similarity: Float[np.ndarray, "a b"], temperature: float = 0.01) -> Directed:
    """Multiplies similarities by their softmax over all test queries (CAMoE, Cheng et al. 2021, arXiv 2109.04290).

    For text-to-video the queries are the texts: s[a, b] * softmax over a of s[:, b] / temperature. For video-to-text
    the queries are the videos. Positive similarities, such as CLIP's, are treated as published. For negative
    similarities the product would reverse the order, so they are multiplied by 2 - softmax instead.

    Args:
      similarity: Similarity of every text with every video; cosines or a weighted mean of cosines.
      temperature: Divides the similarities within the softmax; the published code multiplies by 100.

    Raises:
      ValueError: If the temperature is not positive.
    """
    _check_temperature(temperature)
    return Directed(_over_queries(similarity, temperature), _over_queries(similarity.T, temperature).T)


def querybank(
    similarity: Float[np.ndarray, "a b"],
    texts: Float[np.ndarray, "n b"],
    videos: Float[np.ndarray, "a m"],
    temperature: float = 0.05,
) -> Directed:
    """Applies QB-Norm with the dynamic inverted softmax (Bogolin et al., CVPR 2022, arXiv 2112.12777).

    A candidate is a hub if it is the best match of any query in the bank. If the best candidate of a query is a hub,
    its scores become exp(s / temperature) divided by the sum over the bank (computed as temperature times the
    logarithm); other queries keep their similarities. The bank holds texts for text-to-video and videos for
    video-to-text.

    Args:
      similarity: Similarity of every text with every video.
      texts: Similarity of every text of the bank with every video.
      videos: Similarity of every text with every video of the bank.
      temperature: Divides the similarities; 1/20 as published.

    Raises:
      ValueError: If the temperature is not positive, or a bank is empty.
    """
    _check_temperature(temperature)
    if not len(texts) or not videos.shape[1]:
        raise ValueError(
            f"the querybank has {len(texts)} texts and {videos.shape[1]} videos, wanted at least one of each; use "
            "more of the training split."
        )
    t2v = _dynamic_inverted_softmax(similarity, texts, temperature)
    return Directed(t2v, _dynamic_inverted_softmax(similarity.T, videos.T, temperature).T)


def _over_queries(similarity: Float[np.ndarray, "q g"], temperature: float) -> Float[np.ndarray, "q g"]:
    """Returns the similarities times their softmax over the queries, in double precision as most shares are tiny."""
    scores = similarity.astype(np.float64)
    share = np.exp((scores - scores.max(axis=0)) / temperature)
    share /= share.sum(axis=0)
    return scores * np.where(scores > 0, share, 2 - share)


def _dynamic_inverted_softmax(
    similarity: Float[np.ndarray, "q g"], bank: Float[np.ndarray, "n g"], temperature: float
) -> Float[np.ndarray, "q g"]:
    """Subtracts each candidate's closeness to the bank, for queries whose best candidate is a hub."""
    scores, bank = similarity.astype(np.float64), bank.astype(np.float64)
    best = bank.max(axis=0)
    closeness = best + temperature * np.log(np.exp((bank - best) / temperature).sum(axis=0))
    hub: Bool[np.ndarray, " g"] = np.isin(np.arange(bank.shape[1]), bank.argmax(axis=1))
    return np.where(hub[scores.argmax(axis=1)][:, None], scores - closeness, scores)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: wanted more than 0; use for example 0.01")
