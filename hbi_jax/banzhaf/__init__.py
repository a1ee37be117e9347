"""Cooperative games between two sets of tokens: exact interactions, and the oracle that checks them.

Nothing here knows of HBI. Any two sets of tokens with a matrix of similarities between them make a game:
video and text, or query and document in late-interaction retrieval. docs/banzhaf.md tells how the closed form
comes about.
"""

from hbi_jax.banzhaf.exact import interaction
from hbi_jax.banzhaf.game import coalition_value, enumerate

__all__ = ["coalition_value", "enumerate", "interaction"]
