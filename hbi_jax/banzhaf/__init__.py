"""Cooperative games between two sets of tokens: exact interactions and values, sampling, and brute-force enumeration.

This package is independent of HBI. Any two sets of tokens with a similarity matrix between them define a game: video
and text, or query and document in late-interaction retrieval. `sample` accepts any payoff. docs/banzhaf.md derives the
formulas from elementary probability.
"""

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.banzhaf.exact import interaction, value
from hbi_jax.banzhaf.game import coalition_value, enumerate_interactions, enumerate_values
from hbi_jax.banzhaf.sampling import Estimate, sample, sample_similarity

__all__ = [
    "Estimate",
    "InteractionNet",
    "coalition_value",
    "enumerate_interactions",
    "enumerate_values",
    "interaction",
    "sample",
    "sample_similarity",
    "value",
]
