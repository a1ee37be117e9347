"""CLIP's geometric preprocessing of one picture: bicubic resize of the short side, then centre crop.

Pixel values stay uint8. Normalisation is part of the model, because moving bytes to the device costs a quarter of
moving floats.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize_and_crop(
    picture: Image.Image | UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Scales the short side of a picture to `size` and crops the centre, as CLIP does.

    The resize uses Pillow's bicubic filter, whose kernel widens when it shrinks a picture (antialiasing); the "bicubic"
    filters of other libraries give different pixels. As in torchvision, which CLIP uses, the long side is rounded down
    and half of an odd margin is rounded to even.

    Args:
      picture: A Pillow picture of any mode, or RGB pixels in 0..255.
      size: Side of the returned square, in pixels.

    Returns:
      RGB pixels in 0..255.

    Raises:
      ValueError: If `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"size: got {size}, wanted at least 1 pixel.")
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = size * width // short, size * height // short
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image)[top : top + size, left : left + size]
