"""Metrics of the tasks, in plain numpy on the host."""

from hbi_jax.metrics.answers import Accuracy, answer_accuracy
from hbi_jax.metrics.interaction import Agreement, agreement
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
    "Accuracy",
    "Agreement",
    "Directed",
    "agreement",
    "answer_accuracy",
    "chance_metrics",
    "dual_softmax",
    "group_accuracy",
    "group_chance",
    "querybank",
    "ranks",
    "retrieval_metrics",
    "summarize",
]
