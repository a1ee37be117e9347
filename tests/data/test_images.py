import numpy as np
import pytest
from PIL import Image

from hbi_jax.data.images import resize_and_crop


def _cubic(x):
    """The cubic convolution kernel with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _resize_axis(values, size):
    """Textbook antialiased resampling of the first axis: the kernel is stretched by the reduction."""
    scale = len(values) / size
    centres = (np.arange(size)[:, None] + 0.5) * scale - 0.5
    weights = _cubic((np.arange(len(values))[None] - centres) / max(scale, 1.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(np.tensordot(weights, values, axes=1), 0, 255)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (60, 90), (97, 53), (16, 20)])
def test_is_antialiased_bicubic_of_the_short_side_then_the_centre(height, width):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = 24
    long_height, long_width = size * height // min(height, width), size * width // min(height, width)
    # Rows first: what the cubic overshoots is clipped between the two passes.
    expected = _resize_axis(picture.astype(np.float64).swapaxes(0, 1), long_width).swapaxes(0, 1)
    expected = _resize_axis(expected, long_height)
    top, left = round((long_height - size) / 2), round((long_width - size) / 2)
    expected = expected[top : top + size, left : left + size]
    # Pillow rounds to whole numbers after each pass.
    np.testing.assert_allclose(resize_and_crop(picture, size).astype(np.float64), expected, atol=1.6)


@pytest.mark.parametrize(("width", "left"), [(8, 0), (11, 2), (12, 2), (13, 2), (15, 4)])
def test_an_odd_margin_is_rounded_as_clip_does(width, left):
    """Half margins 1.5, 2, 2.5 and 3.5 become 2, 2, 2 and 4; nothing is resampled here."""
    columns = np.arange(width, dtype=np.uint8)
    wide = np.broadcast_to(columns[None, :, None], (8, width, 3)).copy()
    tall = wide.swapaxes(0, 1).copy()
    assert resize_and_crop(wide, 8)[0, :, 0].tolist() == list(range(left, left + 8))
    assert resize_and_crop(tall, 8)[:, 0, 0].tolist() == list(range(left, left + 8))


def test_pillow_pictures_of_any_mode_are_rgb():
    grey = Image.fromarray(np.full((8, 8), 77, np.uint8))
    assert resize_and_crop(grey, 8).tolist() == np.full((8, 8, 3), 77).tolist()


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="size: got 0, wanted at least 1"):
        resize_and_crop(np.zeros((4, 4, 3), np.uint8), 0)
