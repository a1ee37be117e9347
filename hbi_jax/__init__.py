"""hbi_jax: video-text alignment by cooperative games, in JAX.

Rooms are imported by name, `from hbi_jax import banzhaf`; importing the package itself imports none of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hbi_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from hbi_jax.pretrained import Pretrained
    from hbi_jax.search.encoder import Encoder
    from hbi_jax.search.encodings import Encodings
    from hbi_jax.search.index import Index
    from hbi_jax.tasks.answers.inference import Answer
    from hbi_jax.tasks.captions.inference import Caption
    from hbi_jax.tasks.inference import Paths, Run


def load(folder: str | os.PathLike[str]) -> Pretrained:
    """Opens a folder of weights, see `hbi_jax.pretrained.load`."""
    from hbi_jax.pretrained import load

    return load(folder)


def answer_questions(
    checkpoint: str | os.PathLike[str] | Run, videos: Paths, questions: str | Sequence[str], top: int = 5
) -> list[Answer]:
    """Answers questions about video files, see `hbi_jax.tasks.answers.inference.answer_questions`."""
    from hbi_jax.tasks.answers.inference import answer_questions

    return answer_questions(checkpoint, videos, questions, top)


def generate_captions(
    checkpoint: str | os.PathLike[str] | Run, videos: Paths, method: str | None = None, top: int = 1, seed: int = 0
) -> list[Caption]:
    """Captions video files, see `hbi_jax.tasks.captions.inference.generate_captions`."""
    from hbi_jax.tasks.captions.inference import generate_captions

    return generate_captions(checkpoint, videos, method, top, seed)


def open_index(
    folder: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None, **settings: Any
) -> Index:
    """Opens an index of videos, or makes one, see `hbi_jax.search.index.open_index`."""
    from hbi_jax.search.index import open_index

    return open_index(folder, checkpoint, **settings)


def encode_texts(checkpoint: str | os.PathLike[str] | Encoder, texts: str | Sequence[str]) -> Encodings:
    """Encodes texts as numpy arrays, see `hbi_jax.search.encodings.encode_texts`."""
    from hbi_jax.search.encodings import encode_texts

    return encode_texts(checkpoint, texts)


def encode_videos(checkpoint: str | os.PathLike[str] | Encoder, videos: Paths) -> Encodings:
    """Encodes videos as numpy arrays, see `hbi_jax.search.encodings.encode_videos`."""
    from hbi_jax.search.encodings import encode_videos

    return encode_videos(checkpoint, videos)
