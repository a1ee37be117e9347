"""The temporal transformer: adds order and context to frame embeddings."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbi_jax.choices import Activation, FramePositions, Remat, Scan
from hbi_jax.models.clip import Transformer
from hbi_jax.types import Tokens

# What a frame attends to beside itself: the frames within the window, the frames just before it, or nothing.
View = Literal["window", "past", "alone"]


class FrameTransformer(nn.Module):
    """Residual blocks over the frames, which know their order; their output is added to the input.

    Attributes:
      max_frames: The longest video.
      activation: That of the text tower, whose first layers the blocks may start from.
      window: Frames before and after a frame that it attends to in each layer; 0: all.
      past: Frames before a frame that it attends to in each layer if it sees the past only.
    """

    num_layers: int
    num_heads: int
    max_frames: int
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: Activation = "quick_gelu"
    window: int = 0
    past: int = 0
    scan_layers: Scan = "auto"
    positions: FramePositions = "absolute"
    remat: Remat = "auto"

    @nn.compact
    def __call__(self, frames: Tokens, view: View = "window") -> Tokens:
        """Mixes the real frames of each video; padding gets no attention.

        Args:
          frames: The frames.
          view: What each frame attends to. A frame that is alone does not tell what happens between frames; one that
            sees the past tells what has happened up to then, and nothing of what follows.

        Raises:
          ValueError: If a video has more frames than there are positions.
        """
        x: Float[Array, "b v d"] = frames.features
        v, d = x.shape[1:]
        if v > self.max_frames:
            raise ValueError(
                f"videos of {v} frames, but the frame transformer has positions for {self.max_frames}; "
                f"use config.data.num_frames <= {self.max_frames}"
            )
        h, bias, ahead = x, None, np.subtract.outer(np.arange(v), np.arange(v)).T
        if self.positions == "absolute":
            position = self.param("positional_embedding", nn.initializers.normal(0.01), (self.max_frames, d))
            h = x + position[:v].astype(x.dtype)[None]
        else:
            # Heads differ from the start, so that some look back and others ahead.
            shape = self.num_heads, 2 * self.max_frames - 1
            by_distance = self.param("relative_bias", nn.initializers.normal(1.0), shape)
            bias = jnp.asarray(by_distance, x.dtype)[:, ahead + self.max_frames - 1]
        # The mask may be a numpy array of the caller, which must stay as it is.
        seen = jnp.asarray(frames.mask)[:, None, :]
        behind, beyond = {
            "window": (self.window or v, self.window or v),
            "past": (self.past, 0),
            "alone": (0, 0),
        }[view]
        if min(behind, beyond) < v:
            seen &= ((-behind <= ahead) & (ahead <= beyond))[None]
        h = Transformer(
            self.num_layers,
            self.num_heads,
            self.remat,
            self.dtype,
            activation=self.activation,
            scan_layers=self.scan_layers,
            name="transformer",
        )(h, seen, bias)
        return Tokens(x + h, frames.mask)
