import fractions
import itertools

import av
import numpy as np
import pytest

from hbi_jax.data import colour

GREYS = np.asarray([0, 16, 32, 64, 96, 128, 160, 192, 224, 255])


def _signal(transfer, nits):
    """ITU-R BT.2100's curves, the other way round."""
    if transfer == colour.PQ:
        power = (nits / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    scene = (nits / 1000) ** (1 / 1.2)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


@pytest.mark.parametrize("transfer", [colour.PQ, colour.HLG])
def test_what_was_made_for_ordinary_screens_comes_out_as_it_went_in(transfer):
    """Greys whose white is the reference white of 203 cd/m2."""
    signal = _signal(transfer, 203 * (GREYS / 255) ** 2.4)
    pixels = np.rint(signal[None, :, None].repeat(3, 2) * 65535).astype(np.uint16)
    found = colour.to_bt709(pixels, transfer)
    np.testing.assert_allclose(found[0], GREYS[:, None].repeat(3, 1), atol=1)


def test_bright_light_keeps_its_hue_and_white_stays_white():
    bright = np.rint(_signal(colour.PQ, np.asarray([[[1000.0, 250, 250], [1000, 1000, 1000]]])) * 65535)
    ((red, white),) = colour.to_bt709(bright.astype(np.uint16), colour.PQ).tolist()
    assert white == [255, 255, 255]
    # Of 1495, 157 and 236 cd/m2 in BT.709, all in proportion to the brightest.
    np.testing.assert_allclose(red, [255, 100, 118], atol=2)


def test_wide_colours_on_an_ordinary_curve_become_stronger():
    """Of BT.2020's green, more is needed of BT.709's; greys stay."""
    pixels = np.asarray([[[20000, 40000, 20000], [30000, 30000, 30000]]], np.uint16)
    ((green, grey),) = colour.to_bt709(pixels, 14).tolist()
    assert green[0] < 20000 / 257 < 40000 / 257 < green[1]
    np.testing.assert_allclose(grey, 30000 / 257, atol=1)


def test_only_such_colours_are_mapped():
    assert [colour.is_mapped(*numbers) for numbers in ((1, 1), (2, 2), (16, 9), (18, 2), (14, 9))] == [
        False,
        False,
        True,
        True,
        True,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("transfer", [colour.PQ, colour.HLG])
def test_ffmpeg_agrees(transfer):
    """On colours that BT.709 can show; it clips others in another way. Its filter prepares for some ten seconds."""
    rng = np.random.default_rng(0)
    nits = 203 * (rng.uniform(0.3, 0.8, (4, 8, 1)) * rng.uniform(0.85, 1, (4, 8, 3))) ** 2.4
    pixels = np.rint(_signal(transfer, nits) * 65535).astype(np.uint16).repeat(4, 0).repeat(4, 1)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="gbrp16le")
    frame.color_trc, frame.color_primaries, frame.color_range = transfer, colour.BT2020, 2
    frame.pts, frame.time_base = 0, fractions.Fraction(1, 25)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=32, height=16, format="gbrp16le", time_base=frame.time_base)
    scale = graph.add("scale", "out_primaries=bt709:out_transfer=bt709:intent=relative_colorimetric")
    nodes = [source, scale, graph.add("format", "rgb24"), graph.add("buffersink")]
    for one, other in itertools.pairwise(nodes):
        one.link_to(other)
    graph.configure()
    graph.push(frame)
    theirs, ours = graph.pull().to_ndarray().astype(int), colour.to_bt709(pixels, transfer).astype(int)
    assert np.abs(theirs - ours).mean() < 6
    assert np.abs(theirs - ours).max() < 40
