"""Converts foreign weights and exports ours: CLIP from OpenAI and Hugging Face, published HBI checkpoints.

  python -m hbi_jax.pretrained convert SOURCE DESTINATION

Reads torch's files without torch, and runs no code from them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported when they are first asked for: `python -m hbi_jax.pretrained --help` imports this file, and loads no JAX.
_MODULES = {
    "PretrainedError": "errors",
    **dict.fromkeys(("Pretrained", "load", "save"), "folder"),
    **dict.fromkeys(("convert", "export", "from_state_dict", "to_state_dict"), "exchange"),
    "initialize": "start",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
