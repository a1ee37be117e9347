"""Videos with the caption that a model gives them and those that people gave."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from hbi_jax.report.strips import Strip, plot_strips

GREY = "#616161"
# References shown of a video.
SHOWN = 2


class Example(NamedTuple):
    """A video and its captions.

    Attributes:
      frames: What the model saw, in order.
      caption: What it says; may be empty.
      references: What people say.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    caption: str
    references: Sequence[str]


def caption_strip(example: Example) -> Strip:
    """The caption above the frames, some references below them."""
    references = [(f"reference: {text}", GREY) for text in example.references[:SHOWN]]
    return Strip(example.frames, example.caption or "(an empty caption)", references)


def plot_captions(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Draws videos with their captions.

    Args:
      examples: In the order of appearance.
      path: The picture; its folder is made where it is missing. The format follows from the suffix.

    Raises:
      ValueError: There is no example.
    """
    plot_strips([caption_strip(example) for example in examples], path)
