"""HDR and wide-gamut pictures as an ordinary screen shows them: HLG, PQ and BT.2020 to BT.709.

The constants are those of ITU-R BT.2100 (HLG and PQ) and BT.2020. Reference white, 203 cd/m2 by ITU-R BT.2408, becomes
white, so that what was graded for ordinary screens comes out as it went in; what is brighter keeps its hue. FFmpeg's
filter `scale` with `intent=relative_colorimetric` does the same (a test compares them), but needs ten seconds of
preparation for every file, and its `tonemap` wants linear light, which no filter of PyAV's build makes.
"""

import functools

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16

# FFmpeg's (and ITU-T H.273's) numbers of transfer curves and primaries.
PQ, HLG, BT2020 = 16, 18, 9
NAMES = {PQ: "PQ", HLG: "HLG"}

_WHITE = 203.0
# Of HLG: the brightest that a screen of 1,000 cd/m2 shows, and the exponent that goes with it.
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
_SCREEN_GAMMA = 2.4
_LUMINANCE = np.asarray([0.2627, 0.6780, 0.0593], np.float32)
_TO_BT709 = np.asarray([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
# Entries of the tables of the picture's curve and, by the square root of the light, of the screen's.
_VALUES, _STEPS = 2**16, 2**12
# Pixels that are mapped at once.
_STRIP = 2**16


def is_mapped(transfer: int, primaries: int) -> bool:
    """Whether pictures of these colours have to be mapped."""
    return transfer in NAMES or primaries == BT2020


def to_bt709(pixels: UInt16[np.ndarray, "h w 3"], transfer: int) -> UInt8[np.ndarray, "h w 3"]:
    """Maps a picture in BT.2020 primaries.

    Args:
      pixels: R'G'B' on the picture's own curve, 0..65535.
      transfer: Its curve; one that is neither `PQ` nor `HLG` is that of an ordinary screen.

    Returns:
      R'G'B' in 0..255 for an ordinary screen.
    """
    # In strips, because numbers of light take many times the room of the picture.
    rows = max(1, _STRIP // pixels.shape[1])
    strips = [_mapped(pixels[top : top + rows], transfer) for top in range(0, len(pixels), rows)]
    return np.concatenate(strips)


def _mapped(pixels: UInt16[np.ndarray, "h w 3"], transfer: int) -> UInt8[np.ndarray, "h w 3"]:
    light = _table(transfer)[pixels]
    if transfer == HLG:
        # The screen's part of the curve: it depends on the luminance, not on each colour for itself.
        light *= (light @ _LUMINANCE)[..., None] ** np.float32(_HLG_GAMMA - 1) * np.float32(_HLG_PEAK / _WHITE)
    light = np.maximum(light @ _TO_BT709.T, 0)
    # Scaled down as a whole, a bright colour keeps its hue.
    light /= np.maximum(light.max(-1, keepdims=True), 1)
    return _screen()[np.rint(np.sqrt(light) * (_STEPS - 1)).astype(np.uint16)]


@functools.cache
def _table(transfer: int) -> Float32[np.ndarray, " 65536"]:
    """Light in shares of reference white (of HLG: of the scene's peak) for each value."""
    return _light(np.linspace(0, 1, _VALUES), transfer).astype(np.float32)


def _light(signal: Float[np.ndarray, " n"], transfer: int) -> Float[np.ndarray, " n"]:
    if transfer == PQ:
        power = signal ** (1 / 78.84375)
        share = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        return 10_000 / _WHITE * share ** (1 / 0.1593017578125)
    if transfer == HLG:
        bright = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(signal <= 0.5, signal**2 / 3, bright)
    return signal**_SCREEN_GAMMA


@functools.cache
def _screen() -> UInt8[np.ndarray, " 4096"]:
    """The screen's values, 0..255, by the square root of the light."""
    return np.rint(255 * np.linspace(0, 1, _STEPS) ** (2 / _SCREEN_GAMMA)).astype(np.uint8)
