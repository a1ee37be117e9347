"""A decoded frame as a player shows it: turned and mirrored as the file says, pixels square, colours for a screen."""

from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

from hbi_jax.data import colour

# Pixels that are said to be longer than this, in either direction, are a damaged header.
_LONGEST_PIXEL = 8
# A sine below this is 0: turns by other than right angles are left alone.
_SKEW = 0.02


class Turn(NamedTuple):
    """How a stored picture is shown: rows and columns exchanged, then each of them in reverse or not."""

    exchanged: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged, whatever the angle."""
        return self.exchanged ^ self.rows_reversed ^ self.columns_reversed

    @property
    def degrees(self) -> int:
        """By how much it is turned counter-clockwise, after it was mirrored left to right if it was."""
        # A mirrored picture has its columns reversed, the turn begins from there.
        columns = self.columns_reversed ^ (self.mirrored and not self.exchanged)
        rows = self.rows_reversed ^ (self.mirrored and self.exchanged)
        if self.exchanged:
            return 90 if rows else 270
        return 180 if columns else 0

    def apply(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Shows a picture so."""
        pixels = pixels.transpose(1, 0, 2) if self.exchanged else pixels
        pixels = pixels[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]
        return np.ascontiguousarray(pixels)


def turn(frame: av.VideoFrame) -> Turn | None:
    """How a frame is to be turned and mirrored, by its display matrix; `None` for another angle than right ones."""
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


def pixel_aspect(stated: Fraction | None) -> Fraction:
    """Width of a pixel over its height; 1 where nothing or nonsense is stated."""
    if not stated or not Fraction(1, _LONGEST_PIXEL) <= stated <= _LONGEST_PIXEL:
        return Fraction(1)
    return Fraction(stated)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height with square pixels, the shorter side of the pixel made longer so that nothing is lost."""
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def shown(frame: av.VideoFrame, aspect: Fraction) -> UInt8[np.ndarray, "h w 3"]:
    """RGB in 0..255 of a frame as a player shows it.

    Args:
      frame: As decoded.
      aspect: Width of its pixels over their height.
    """
    width, height = square_size(frame.width, frame.height, aspect)
    mapped = colour.is_mapped(frame.color_trc, frame.color_primaries)
    # One thread: clips are read several at once.
    pixels = frame.reformat(
        width, height, format="rgb48le" if mapped else "rgb24", interpolation="BICUBIC", threads=1
    ).to_ndarray()
    if mapped:
        pixels = colour.to_bt709(pixels, frame.color_trc)
    turned = turn(frame)
    return pixels if turned in (None, Turn()) else turned.apply(pixels)
