"""Metrics of the tasks, in plain numpy on the host."""

from hbi_jax.metrics.interaction import Agreement, agreement
from hbi_jax.metrics.retrieval import (
    chance_metrics,
    group_accuracy,
    group_chance,
    ranks,
    retrieval_metrics,
    summarize,
)

__all__ = [
    "Agreement",
    "agreement",
    "chance_metrics",
    "group_accuracy",
    "group_chance",
    "ranks",
    "retrieval_metrics",
    "summarize",
]
