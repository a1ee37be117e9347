"""Augmentation of training clips: one random transform per clip, applied to all its frames.

An augmentation takes all texts of a clip and a random generator and returns a function of one picture. Each frame is
transformed as soon as it is decoded, before it is resized.
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

# Changes one RGB picture.
Transform = Callable[[Image.Image], Image.Image]
# Draws the transform of a clip from its texts, in one string, and a random generator.
Augmentation = Callable[[str, np.random.Generator], Transform]

_BICUBIC = Image.Resampling.BICUBIC
# Fills the area that a shifted or rotated picture leaves empty.
_GREY = (128, 128, 128)
# A text with one of these words would be wrong for a mirrored clip.
_SIDED = re.compile(r"\b(left|right)|clockwise", re.IGNORECASE)


class Operation(NamedTuple):
    """An operation of RandAugment.

    Attributes:
      apply: Changes an RGB picture by a strength in [0, 1].
      signed: Whether the strength gets a random sign.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    signed: bool = False


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    """Returns an affine operation: output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f).

    `matrix` returns (a, ..., f) for a picture and a strength.
    """

    def apply(picture: Image.Image, strength: float) -> Image.Image:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, matrix(picture, strength), _BICUBIC, fillcolor=_GREY
        )

    return Operation(apply, signed=True)


def _enhance(enhancer: type) -> Operation:
    """Returns an operation that enhances one property by a factor; a factor of 1 changes nothing."""
    return Operation(lambda picture, strength: enhancer(picture).enhance(1 + 0.9 * strength), signed=True)


def _add_to_dark(picture: Image.Image, amount: int) -> Image.Image:
    table = [min(value + amount, 255) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


# As in the published code, bits and grey levels are truncated to integers before they are subtracted. At strength 1 the
# published code keeps 0 bits, which gives a black picture; here one bit is kept.
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
    """A sequence of operations: names in `OPERATIONS`, each with its strength."""

    steps: tuple[tuple[str, float], ...]

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Applies the operations to an RGB picture; its size does not change."""
        for name, strength in self.steps:
            picture = OPERATIONS[name].apply(picture, strength)
        return picture


@dataclasses.dataclass(frozen=True)
class RandAugment(RandAugmentConfig):
    """RandAugment with the published HBI code's settings for MSR-VTT: "rand-m7-n4-mstd0.5-inc1", bicubic.

    Operations are drawn uniformly and may repeat. Each is applied with probability 1/2. Its magnitude is drawn from a
    normal distribution and clipped to 0..10; a magnitude of 10 is a strength of 1.

    Raises:
      ConfigError: If a field is out of range.
    """

    def __post_init__(self):
        check(self, "rand_augment")

    def __call__(self, text: str, rng: np.random.Generator) -> Chain:
        """Draws the operations of a clip; the caption is ignored."""
        steps = []
        for name in rng.choice(list(OPERATIONS), self.num_ops).tolist():
            strength = min(max(rng.normal(self.magnitude, self.magnitude_std), 0.0), 10.0) / 10
            negative, applied = rng.random(2) < 0.5
            if applied:
                steps.append((name, -strength if negative and OPERATIONS[name].signed else strength))
        return Chain(tuple(steps))


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop to a square, with an optional horizontal flip.

    Attributes:
      side: Side of the square as a share of the picture's short side, in (0, 1].
      left, top: Position of the square, in [0, 1]; at 0 and 1 it touches an edge of the picture.
      mirrored: Whether left and right are swapped.
    """

    side: float
    left: float
    top: float
    mirrored: bool

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Returns the square of a picture."""
        side = max(1, round(self.side * min(picture.size)))
        left, top = round(self.left * (picture.width - side)), round(self.top * (picture.height - side))
        square = picture.crop((left, top, left + side, top + side))
        return ImageOps.mirror(square) if self.mirrored else square


@dataclasses.dataclass(frozen=True)
class CropFlip(CropFlipConfig):
    """A random square crop with a random horizontal flip; texts that mention left or right prevent the flip.

    Raises:
      ConfigError: If a field is out of range.
    """

    def __post_init__(self):
        check(self, "crop_flip")

    def __call__(self, text: str, rng: np.random.Generator) -> Crop:
        """Draws the square and the flip of a clip with these texts."""
        side = math.sqrt(rng.uniform(self.min_area, 1))
        left, top, coin = rng.random(3).tolist()
        return Crop(side, left, top, coin < self.flip_rate and not _SIDED.search(text))


AUGMENTATIONS = {"rand_augment": RandAugment, "crop_flip": CropFlip}
