import math

import numpy as np
import pytest
from PIL import Image, ImageOps

from hbi_jax.data.augment import AUGMENTATIONS, OPERATIONS, Chain, Crop, CropFlip, RandAugment

RANDOM = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
LEVELS = np.arange(256)
SIGNED = {
    *("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
    *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
}


def _apply(name, strength, pixels):
    return np.asarray(OPERATIONS[name].apply(Image.fromarray(pixels), strength)).astype(int)


def _grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=-1)


def _rng(*entropy):
    return np.random.default_rng(entropy)


def test_the_operations_are_those_of_the_increasing_set():
    others = {"AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"}
    assert set(OPERATIONS) == SIGNED | others
    assert {name for name, operation in OPERATIONS.items() if operation.signed} == SIGNED


@pytest.mark.parametrize("name", OPERATIONS)
def test_size_and_type_stay_and_the_picture_given_is_not_changed(name):
    picture = Image.fromarray(RANDOM)
    for strength in (0.0, 0.33, 0.7, 1.0):
        result = OPERATIONS[name].apply(picture, strength)
        assert (result.size, result.mode) == ((20, 12), "RGB")
        np.testing.assert_array_equal(np.asarray(picture), RANDOM)


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("Invert", 0.7, 255 - LEVELS),
        ("PosterizeIncreasing", 0.0, LEVELS & 0b11110000),
        ("PosterizeIncreasing", 0.7, LEVELS & 0b11000000),
        ("PosterizeIncreasing", 1.0, LEVELS & 0b10000000),
        ("SolarizeIncreasing", 0.7, np.where(LEVELS < 77, LEVELS, 255 - LEVELS)),
        ("SolarizeIncreasing", 1.0, 255 - LEVELS),
        ("SolarizeAdd", 0.7, np.where(LEVELS < 128, LEVELS + 77, LEVELS)),
        ("SolarizeAdd", 1.0, np.where(LEVELS < 128, LEVELS + 110, LEVELS)),
    ],
)
def test_grey_levels_become_what_the_table_says(name, strength, expected):
    np.testing.assert_array_equal(_apply(name, strength, _grey(LEVELS[None]))[0, :, 1], expected)


def test_auto_contrast_and_equalize_spread_the_levels():
    stretched = _apply("AutoContrast", 0.7, _grey([[50, 80, 140, 200]]))
    assert stretched[0, :, 0].tolist() == [0, 51, 153, 255]
    # Four neighbouring levels, each equally frequent, become evenly spread ones.
    spread = _apply("Equalize", 0.7, _grey([[100, 101, 102, 103]] * 85))
    assert spread[0, :, 0].tolist() == [0, 85, 170, 255]


@pytest.mark.parametrize("strength", [-1.0, -0.7, 0.4, 1.0])
def test_enhancements_move_away_from_a_picture_without_the_property(strength):
    factor, pixels = 1 + 0.9 * strength, RANDOM.astype(int)
    grey = np.asarray(Image.fromarray(RANDOM).convert("L")).astype(int)[..., None]
    without = {"BrightnessIncreasing": 0, "ColorIncreasing": grey, "ContrastIncreasing": int(grey.mean() + 0.5)}
    for name, zero in without.items():
        expected = np.clip(zero + factor * (pixels - zero), 0, 255)
        np.testing.assert_allclose(_apply(name, strength, RANDOM), expected, atol=1, err_msg=name)


def test_sharpness_moves_away_from_a_weighted_mean_of_the_neighbours():
    pixels = np.full((5, 5), 100)
    pixels[2, 2] = 204
    # Without sharpness, the spot of 104 above its surroundings counts 5 of 13 at its place and 1 of 13 beside it.
    centre, beside = 100 + 104 * 5 / 13, 100 + 104 / 13
    for strength in (-0.7, 0.7):
        factor = 1 + 0.9 * strength
        result = _apply("SharpnessIncreasing", strength, _grey(pixels))[..., 0]
        assert result[2, 2] == pytest.approx(min(centre + factor * (204 - centre), 255), abs=1)
        assert result[1, 2] == pytest.approx(beside + factor * (100 - beside), abs=1)
        assert result[0, 0] == 100


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_translation_leaves_grey(sign):
    """At strength 1 it is by 0.45 of the 20 columns and of 40 rows: 9 and 18."""
    wide, tall = RANDOM, RANDOM.repeat(2, axis=0).repeat(2, axis=1).swapaxes(0, 1)
    for name, pixels, distance in (("TranslateXRel", wide, 9), ("TranslateYRel", tall, 18)):
        axis = 1 if name == "TranslateXRel" else 0
        expected = np.roll(pixels, -sign * distance, axis).astype(int)
        emptied = np.s_[-distance:] if sign > 0 else np.s_[:distance]
        np.moveaxis(expected, axis, 0)[emptied] = 128
        np.testing.assert_array_equal(_apply(name, float(sign), pixels), expected)


@pytest.mark.parametrize("strength", [-1.0, -0.7, 0.35, 1.0])
def test_shear_and_rotation_move_a_slope_as_geometry_says(strength):
    """A pixel's value tells where it came from, to a tenth of a pixel by Pillow's cubic kernel, and is cut off."""
    size = 41
    y, x = np.mgrid[:size, :size] + 0.5
    middle, angle = size / 2, math.radians(30 * strength)
    dx, dy = x - middle, y - middle
    cases = {
        "ShearX": (x + 0.3 * strength * y, y),
        "ShearY": (x, y + 0.3 * strength * x),
        # Counter-clockwise on the screen, where y points down.
        "Rotate": (
            middle + math.cos(angle) * dx - math.sin(angle) * dy,
            middle + math.sin(angle) * dx + math.cos(angle) * dy,
        ),
    }
    for name, (from_x, from_y) in cases.items():
        for axis, origin in ((x, from_x), (y, from_y)):
            result = _apply(name, strength, _grey(6 * (axis - 0.5)))[..., 0]
            inside = (np.minimum(from_x, from_y) > 2) & (np.maximum(from_x, from_y) < size - 2)
            outside = (np.minimum(from_x, from_y) < 0) | (np.maximum(from_x, from_y) > size)
            np.testing.assert_allclose(result[inside], 6 * (origin - 0.5)[inside], atol=1.6, err_msg=name)
            assert inside.mean() > 0.5
            assert outside.any()
            assert (result[outside] == 128).all()


def test_strength_0_changes_nothing_where_there_is_something_to_scale():
    for name in SIGNED | {"SolarizeIncreasing", "SolarizeAdd"}:
        np.testing.assert_array_equal(_apply(name, 0.0, RANDOM), RANDOM, err_msg=name)


def test_a_chain_applies_its_steps_in_order():
    picture = Image.fromarray(RANDOM)
    chain = Chain((("PosterizeIncreasing", 0.7), ("Invert", 0.7)))
    np.testing.assert_array_equal(np.asarray(chain(picture)), 255 - (RANDOM & 0b11000000))
    assert Chain(())(picture) is picture


def test_draws_follow_the_random_numbers_alone():
    augment = RandAugment()
    assert augment("a dog", _rng(3, 1, 4)) == augment("a cat", _rng(3, 1, 4))
    assert len({augment("a dog", _rng(*seed)) for seed in np.ndindex(4, 4, 4)}) > 55


def test_the_published_settings_are_drawn():
    """Four of fifteen with repetition, each applied half of the time, at 7 with a standard deviation of 0.5."""
    steps = [step for seed in range(3000) for step in RandAugment()("", _rng(seed)).steps]
    assert len(steps) / 3000 == pytest.approx(4 / 2, abs=0.08)
    magnitudes = [10 * abs(strength) for _, strength in steps]
    assert np.mean(magnitudes) == pytest.approx(7, abs=0.03)
    assert np.std(magnitudes) == pytest.approx(0.5, abs=0.03)
    for name in OPERATIONS:
        signs = [math.copysign(1, strength) for drawn, strength in steps if drawn == name]
        assert len(signs) / 3000 == pytest.approx(2 / 15, abs=0.03)
        assert np.mean(signs) == pytest.approx(0 if name in SIGNED else 1, abs=0.2)


def test_magnitudes_are_clipped():
    augment = RandAugment(num_ops=50, magnitude=9.0, magnitude_std=20.0)
    strengths = np.abs([strength for _, strength in augment("", _rng(0)).steps])
    assert strengths.min() == 0
    assert strengths.max() == 1
    assert RandAugment(num_ops=0)("", _rng(0)) == Chain(())


def test_a_crop_is_a_square_of_the_picture():
    picture = Image.fromarray(RANDOM)
    np.testing.assert_array_equal(np.asarray(Crop(1.0, 0.0, 0.0, False)(picture)), RANDOM[:, :12])
    np.testing.assert_array_equal(np.asarray(Crop(0.5, 1.0, 0.5, False)(picture)), RANDOM[3:9, 14:])
    np.testing.assert_array_equal(np.asarray(Crop(1.0, 0.5, 0.0, True)(picture)), RANDOM[:, 15:3:-1])


def test_crops_have_the_area_and_the_places_asked_for():
    crops = [CropFlip(min_area=0.25)("a dog", _rng(seed)) for seed in range(2000)]
    areas = np.asarray([crop.side**2 for crop in crops])
    assert 0.25 <= areas.min() < 0.26 < 0.99 < areas.max() <= 1
    for values, mean in ((areas, 0.625), ([crop.left for crop in crops], 0.5), ([crop.top for crop in crops], 0.5)):
        assert np.mean(values) == pytest.approx(mean, abs=0.03)
    assert np.mean([crop.mirrored for crop in crops]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("caption", "may"),
    [
        ("a red box slides left", False),
        ("The RIGHT-most star spins", False),
        ("a wheel turns counterclockwise", False),
        ("a bright star stands upright", True),
        ("someone copies a clock", True),
    ],
)
def test_a_clip_is_mirrored_only_where_the_caption_stays_true(caption, may):
    crops = [CropFlip(flip_rate=1.0)(caption, _rng(seed)) for seed in range(5)]
    assert [crop.mirrored for crop in crops] == [may] * 5
    # The square does not depend on the caption.
    assert [crop.left for crop in crops] == [CropFlip()("", _rng(seed)).left for seed in range(5)]
    assert not CropFlip(flip_rate=0.0)(caption, _rng(0)).mirrored


def test_the_names_of_the_configuration():
    picture = Image.fromarray(RANDOM)
    assert set(AUGMENTATIONS) == {"rand_augment", "crop_flip"}
    mirrored = AUGMENTATIONS["crop_flip"](min_area=1.0, flip_rate=1.0)("", _rng(0))(picture.crop((0, 0, 12, 12)))
    np.testing.assert_array_equal(np.asarray(mirrored), np.asarray(ImageOps.mirror(picture.crop((0, 0, 12, 12)))))
    assert AUGMENTATIONS["rand_augment"](num_ops=0)("", _rng(0))(picture) is picture


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rand_augment", {"num_ops": -1}, "rand_augment.num_ops=-1: wanted 0 or more"),
        ("rand_augment", {"magnitude": 11.0}, "rand_augment.magnitude=11.0: wanted 10 or less"),
        ("rand_augment", {"magnitude_std": -1.0}, "rand_augment.magnitude_std=-1.0: wanted 0 or more"),
        ("crop_flip", {"min_area": 0.0}, "crop_flip.min_area=0.0: wanted more than 0"),
        ("crop_flip", {"flip_rate": 1.5}, "crop_flip.flip_rate=1.5: wanted a share"),
    ],
)
def test_settings_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS[name](**options)
