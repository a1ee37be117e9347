"""Converts a decoded frame to the picture a player shows: oriented, with square pixels and the colours of a screen."""

from fractions import Fraction
from numbers import Rational
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

from hbi_jax.data import colour

# A larger stated aspect ratio of the pixels, in either direction, means a damaged header.
_LONGEST_PIXEL = 8
# A sine below this counts as 0. Rotations by other angles than multiples of 90 degrees are ignored.
_SKEW = 0.02


class Turn(NamedTuple):
    """An orientation: how a stored picture becomes the picture that is shown.

    Attributes:
      exchanged: Whether rows and columns are exchanged (transposed), before any reversal.
      rows_reversed: Whether the order of the rows is reversed.
      columns_reversed: Whether the order of the columns is reversed.
    """

    exchanged: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored, at any angle."""
        return self.exchanged ^ self.rows_reversed ^ self.columns_reversed

    @property
    def degrees(self) -> int:
        """The counter-clockwise rotation in degrees, applied after any left-right mirroring."""
        # Mirroring reverses the columns first; the rotation is what remains.
        columns = self.columns_reversed ^ (self.mirrored and not self.exchanged)
        rows = self.rows_reversed ^ (self.mirrored and self.exchanged)
        if self.exchanged:
            return 90 if rows else 270
        return 180 if columns else 0

    def apply(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Returns the picture in this orientation."""
        pixels = pixels.transpose(1, 0, 2) if self.exchanged else pixels
        pixels = pixels[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]
        return np.ascontiguousarray(pixels)


def turn(frame: av.VideoFrame) -> Turn | None:
    """Returns the orientation in a frame's display matrix; `None` if the angle is not a multiple of 90 degrees."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Turn()
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5] / 2**16
    longest = max(abs(a), abs(b), abs(c), abs(d))
    if max(abs(b), abs(c)) <= _SKEW * longest:
        return Turn(False, bool(d < 0), bool(a < 0))
    if max(abs(a), abs(d)) <= _SKEW * longest:
        return Turn(True, bool(b < 0), bool(c < 0))
    return None


def pixel_aspect(stated: Rational | None) -> Fraction:
    """Returns the width of a pixel over its height; 1 if the file states no plausible value.

    Args:
      stated: What the file states; PyAV 19 and later return a type of their own.
    """
    if not stated or not Fraction(1, _LONGEST_PIXEL) <= stated <= _LONGEST_PIXEL:
        return Fraction(1)
    return Fraction(stated)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Returns the width and height with square pixels.

    The picture is stretched along the shorter side of its pixels, so no detail is lost.
    """
    if aspect == 1:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def shown(frame: av.VideoFrame, aspect: Fraction) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a frame as a player shows it, as RGB in 0..255.

    Args:
      frame: The decoded frame.
      aspect: Width of the frame's pixels over their height.
    """
    width, height = square_size(frame.width, frame.height, aspect)
    mapped = colour.is_mapped(frame.color_trc, frame.color_primaries)
    # One thread, because several clips are read at the same time.
    pixels = frame.reformat(
        width, height, format="rgb48le" if mapped else "rgb24", interpolation="BICUBIC", threads=1
    ).to_ndarray()
    if mapped:
        pixels = colour.to_bt709(pixels, frame.color_trc)
    turned = turn(frame)
    return pixels if turned in (None, Turn()) else turned.apply(pixels)
