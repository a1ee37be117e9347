"""hbi_jax: video-text alignment by cooperative games, in JAX.

Rooms are imported by name, `from hbi_jax import banzhaf`; importing the package itself imports none of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hbi_jax.pretrained import Pretrained

__version__ = "0.1.0"


def load(folder: str | os.PathLike[str]) -> Pretrained:
    """Opens a folder of weights, see `hbi_jax.pretrained.load`."""
    from hbi_jax.pretrained import load

    return load(folder)
