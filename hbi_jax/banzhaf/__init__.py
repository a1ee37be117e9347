"""Cooperative games between two sets of tokens: exact interactions and values, any game by sampling, the oracle.

Nothing here knows of HBI. Any two sets of tokens with a matrix of similarities between them make a game:
video and text, or query and document in late-interaction retrieval; and `sample` takes any payoff. docs/banzhaf.md
derives what is here from elementary probability.
"""

from hbi_jax.banzhaf.estimator import InteractionNet
from hbi_jax.banzhaf.exact import interaction, value
from hbi_jax.banzhaf.game import coalition_value, enumerate, enumerate_values
from hbi_jax.banzhaf.sampling import Estimate, sample, sample_similarity

__all__ = [
    "Estimate",
    "InteractionNet",
    "coalition_value",
    "enumerate",
    "enumerate_values",
    "interaction",
    "sample",
    "sample_similarity",
    "value",
]
