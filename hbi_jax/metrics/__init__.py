"""Ranking metrics in plain numpy, on the host."""

from hbi_jax.metrics.normalization import Directed, dual_softmax, querybank
from hbi_jax.metrics.retrieval import (
    chance_metrics,
    group_accuracy,
    group_chance,
    ranks,
    retrieval_metrics,
    summarize,
)

__all__ = [
    "Directed",
    "chance_metrics",
    "dual_softmax",
    "group_accuracy",
    "group_chance",
    "querybank",
    "ranks",
    "retrieval_metrics",
    "summarize",
]
