"""Similarities normalised over queries after the fact, against candidates that are everybody's neighbour (hubs).

Plain numpy on the host. Both ways look at more than one query: dual softmax at all that are tested, the querybank at
queries of the training set. So neither says how a model answers a single query by itself.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Directed(NamedTuple):
    """Scores of every text (row) with every video (column), for each direction its own.

    Attributes:
      t2v: Ranks the videos of a text; rows are not comparable with each other.
      v2t: Ranks the texts of a video; columns are not comparable with each other.
    """

    t2v: Float[np.ndarray, "a b"]
    v2t: Float[np.ndarray, "a b"]


def dual_softmax(similarity: Float[np.ndarray, "a b"], temperature: float = 0.01) -> Directed:
    """Every similarity times the softmax over all queries of the test set (CAMoE, Cheng et al. 2021, arXiv 2109.04290).

    Text to video, the queries are the texts: s[a, b] * softmax over a of s[:, b] / temperature. Video to text, the
    videos. As published where similarities are positive, as CLIP's are; the product would turn the order of negative
    ones around, so these are multiplied by 2 - softmax.

    Args:
      similarity: Of every text with every video; cosines or a weighted mean of them.
      temperature: Divides the similarities within the softmax; published code multiplies by 100.

    Raises:
      ValueError: The temperature is not positive.
    """
    _check_temperature(temperature)
    return Directed(_over_queries(similarity, temperature), _over_queries(similarity.T, temperature).T)


def querybank(
    similarity: Float[np.ndarray, "a b"],
    texts: Float[np.ndarray, "n b"],
    videos: Float[np.ndarray, "a m"],
    temperature: float = 0.05,
) -> Directed:
    """QB-Norm with the dynamic inverted softmax (Bogolin et al., CVPR 2022, arXiv 2112.12777).

    A candidate that is the best of some query of the bank is a hub. Queries whose own best candidate is a hub get
    exp(s / temperature) divided by its sum over the bank, which is written as temperature times its logarithm; the
    other queries keep their similarities. Text to video, the bank are texts, video to text, videos.

    Args:
      similarity: Of every text with every video.
      texts: Of every text of the bank with every video.
      videos: Of every text with every video of the bank.
      temperature: Divides the similarities; 1/20 as published.

    Raises:
      ValueError: The temperature is not positive, or a bank is empty.
    """
    _check_temperature(temperature)
    if not len(texts) or not videos.shape[1]:
        raise ValueError(
            f"the querybank has {len(texts)} texts and {videos.shape[1]} videos, wanted at least one of each; take "
            "more of the training split."
        )
    t2v = _dynamic_inverted_softmax(similarity, texts, temperature)
    return Directed(t2v, _dynamic_inverted_softmax(similarity.T, videos.T, temperature).T)


def _over_queries(similarity: Float[np.ndarray, "q g"], temperature: float) -> Float[np.ndarray, "q g"]:
    """Similarities times their softmax over the queries, in double precision: most shares are tiny."""
    scores = similarity.astype(np.float64)
    share = np.exp((scores - scores.max(axis=0)) / temperature)
    share /= share.sum(axis=0)
    return scores * np.where(scores > 0, share, 2 - share)


def _dynamic_inverted_softmax(
    similarity: Float[np.ndarray, "q g"], bank: Float[np.ndarray, "n g"], temperature: float
) -> Float[np.ndarray, "q g"]:
    """Similarities less how close each candidate is to the bank, for queries whose best candidate is a hub."""
    scores, bank = similarity.astype(np.float64), bank.astype(np.float64)
    best = bank.max(axis=0)
    closeness = best + temperature * np.log(np.exp((bank - best) / temperature).sum(axis=0))
    hub: Bool[np.ndarray, " g"] = np.isin(np.arange(bank.shape[1]), bank.argmax(axis=1))
    return np.where(hub[scores.argmax(axis=1)][:, None], scores - closeness, scores)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: wanted more than 0; write for instance 0.01")
