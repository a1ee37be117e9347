"""Random changes to the frames of a training clip: drawn once for a clip, the same for all its frames.

Drawing takes the caption and random numbers and gives a function of one picture, so that frames are changed one
by one as they are decoded, before they are resized.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hbi_jax.data.config import CropFlipConfig, RandAugmentConfig
from hbi_jax.fields import check

# What is done to one RGB picture.
Transform = Callable[[Image.Image], Image.Image]
# Draws it for a clip, from its caption and random numbers.
Augmentation = Callable[[str, np.random.Generator], Transform]

_BICUBIC = Image.Resampling.BICUBIC
# What shows where a picture was moved away.
_GREY = (128, 128, 128)
# What these words say is no longer true in a mirror.
_SIDED = re.compile(r"\b(left|right)|clockwise", re.IGNORECASE)


class Operation(NamedTuple):
    """One of RandAugment's operations.

    Attributes:
      apply: Changes an RGB picture by a strength in [0, 1].
      signed: The strength has a random sign.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    signed: bool = False


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    """Takes pixel (x, y) from (a x + b y + c, d x + e y + f), for the matrix (a, ..., f) of a strength."""

    def apply(picture: Image.Image, strength: float) -> Image.Image:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, matrix(picture, strength), _BICUBIC, fillcolor=_GREY
        )

    return Operation(apply, signed=True)


def _enhance(enhancer: type) -> Operation:
    """Moves a property away from what it is: a factor of 1 changes nothing."""
    return Operation(lambda picture, strength: enhancer(picture).enhance(1 + 0.9 * strength), signed=True)


def _add_to_dark(picture: Image.Image, amount: int) -> Image.Image:
    table = [min(value + amount, 255) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


# Fractions of bits and grey levels are cut off before they are subtracted, as in the published code; that keeps 0
# bits at strength 1, a black picture, where here one bit is left.
OPERATIONS = {
    "AutoContrast": Operation(lambda picture, _: ImageOps.autocontrast(picture)),
    "Equalize": Operation(lambda picture, _: ImageOps.equalize(picture)),
    "Invert": Operation(lambda picture, _: ImageOps.invert(picture)),
    "Rotate": Operation(
        lambda picture, strength: picture.rotate(30 * strength, _BICUBIC, fillcolor=_GREY), signed=True
    ),
    "PosterizeIncreasing": Operation(
        lambda picture, strength: ImageOps.posterize(picture, max(4 - int(4 * strength), 1))
    ),
    "SolarizeIncreasing": Operation(lambda picture, strength: ImageOps.solarize(picture, 256 - int(256 * strength))),
    "SolarizeAdd": Operation(lambda picture, strength: _add_to_dark(picture, int(110 * strength))),
    "ColorIncreasing": _enhance(ImageEnhance.Color),
    "ContrastIncreasing": _enhance(ImageEnhance.Contrast),
    "BrightnessIncreasing": _enhance(ImageEnhance.Brightness),
    "SharpnessIncreasing": _enhance(ImageEnhance.Sharpness),
    "ShearX": _affine(lambda _, strength: (1, 0.3 * strength, 0, 0, 1, 0)),
    "ShearY": _affine(lambda _, strength: (1, 0, 0, 0.3 * strength, 1, 0)),
    "TranslateXRel": _affine(lambda picture, strength: (1, 0, 0.45 * strength * picture.width, 0, 1, 0)),
    "TranslateYRel": _affine(lambda picture, strength: (1, 0, 0, 0, 1, 0.45 * strength * picture.height)),
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """Operations one after the other: names in `OPERATIONS`, each with its strength."""

    steps: tuple[tuple[str, float], ...]

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Changes an RGB picture; its size stays."""
        for name, strength in self.steps:
            picture = OPERATIONS[name].apply(picture, strength)
        return picture


@dataclasses.dataclass(frozen=True)
class RandAugment(RandAugmentConfig):
    """RandAugment as the published HBI code trains MSR-VTT with it: "rand-m7-n4-mstd0.5-inc1", bicubic.

    Operations are drawn uniformly and may repeat; each is applied with probability 1/2, at a magnitude of its own
    from a normal distribution, clipped to 0..10. A magnitude of 10 is a strength of 1.

    Raises:
      ConfigError: If a field is out of range.
    """

    def __post_init__(self):
        check(self, "rand_augment")

    def __call__(self, text: str, rng: np.random.Generator) -> Chain:
        """Draws the operations of a clip, whatever its caption."""
        steps = []
        for name in rng.choice(list(OPERATIONS), self.num_ops).tolist():
            strength = min(max(rng.normal(self.magnitude, self.magnitude_std), 0.0), 10.0) / 10
            negative, applied = rng.random(2) < 0.5
            if applied:
                steps.append((name, -strength if negative and OPERATIONS[name].signed else strength))
        return Chain(tuple(steps))


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of a picture, perhaps mirrored.

    Attributes:
      side: Its side as a share of the picture's short side, in (0, 1].
      left, top: Where it lies, in [0, 1]: at 0 and 1 it touches an edge.
      mirrored: Left and right change places.
    """

    side: float
    left: float
    top: float
    mirrored: bool

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Cuts the square out."""
        side = max(1, round(self.side * min(picture.size)))
        left, top = round(self.left * (picture.width - side)), round(self.top * (picture.height - side))
        square = picture.crop((left, top, left + side, top + side))
        return ImageOps.mirror(square) if self.mirrored else square


@dataclasses.dataclass(frozen=True)
class CropFlip(CropFlipConfig):
    """A random square of the frames, mirrored at random unless the caption tells left from right.

    Raises:
      ConfigError: If a field is out of range.
    """

    def __post_init__(self):
        check(self, "crop_flip")

    def __call__(self, text: str, rng: np.random.Generator) -> Crop:
        """Draws a square, and whether a clip with this caption is mirrored."""
        side = math.sqrt(rng.uniform(self.min_area, 1))
        left, top, coin = rng.random(3).tolist()
        return Crop(side, left, top, coin < self.flip_rate and not _SIDED.search(text))


AUGMENTATIONS = {"rand_augment": RandAugment, "crop_flip": CropFlip}
