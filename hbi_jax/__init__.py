"""hbi_jax: video-text alignment by cooperative games, in JAX.

Rooms are imported by name, `from hbi_jax import banzhaf`; importing the package itself imports none of them.
"""

__version__ = "0.1.0"
