"""Converts foreign weights and exports ours: CLIP from OpenAI and Hugging Face, published HBI checkpoints.

  python -m hbi_jax.pretrained convert SOURCE DESTINATION

Reads torch's files without torch, and runs no code from them.
"""

from hbi_jax.pretrained.errors import PretrainedError
from hbi_jax.pretrained.exchange import convert, export, from_state_dict, to_state_dict
from hbi_jax.pretrained.folder import Pretrained, load, save
from hbi_jax.pretrained.start import initialize

__all__ = [
    "Pretrained",
    "PretrainedError",
    "convert",
    "export",
    "from_state_dict",
    "initialize",
    "load",
    "save",
    "to_state_dict",
]
