"""Pictures of videos with their generated caption and reference captions."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from hbi_jax.report.strips import Strip

GREY = "#616161"
# References shown per video.
SHOWN = 2


class Example(NamedTuple):
    """A video and its captions.

    Attributes:
      frames: The frames that the model saw, in order.
      caption: The generated caption; may be empty.
      references: The reference captions.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    caption: str
    references: Sequence[str]


def caption_strip(example: Example) -> Strip:
    """Returns a strip with the caption above the frames and some references below."""
    references = [(f"reference: {text}", GREY) for text in example.references[:SHOWN]]
    return Strip(example.frames, example.caption or "(an empty caption)", references)


def plot_captions(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Draws videos with their captions.

    Args:
      examples: The examples, from top to bottom.
      path: The picture; its folder is created if needed. The suffix sets the format.

    Raises:
      ValueError: If there is no example.
    """
    # Drawing libraries take long to load, and most commands draw nothing.
    from hbi_jax.report.plot_strips import plot_strips

    plot_strips([caption_strip(example) for example in examples], path)
