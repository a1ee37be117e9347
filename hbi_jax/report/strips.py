"""Videos with texts about them, as they are drawn below each other in a picture."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8


class Strip(NamedTuple):
    """A video with texts about it.

    Attributes:
      frames: The frames, in order.
      title: The text above the frames, in bold; wrapped.
      lines: The texts below the frames with their colours; each is shortened to one line.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    title: str
    lines: Sequence[tuple[str, str]]
