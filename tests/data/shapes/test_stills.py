"""Stills: what a caption says is what the picture shows, and nothing of what only a video shows."""

import collections
import itertools
import math
import random
import re

import numpy as np
import pytest

from hbi_jax.data.shapes import stills
from hbi_jax.data.shapes.entities import COLORS, SHAPES, Entity
from hbi_jax.data.shapes.grammar import SHAPE_WORDS, SIZE_WORDS, VERBS
from hbi_jax.data.shapes.renderer import BACKGROUNDS, pose_box
from hbi_jax.data.shapes.scenes import Pose

SMALL, LARGE = Entity("red", "circle", "small"), Entity("blue", "cross", "large")
PLACED = Pose(0.2, 0.8, 0.19, 0.0, True), Pose(0.5, 0.5, 0.33, math.pi / 2 + 0.2, True)


def captions(still, count=400):
    return [still.caption(random.Random(seed)) for seed in range(count)]


def test_a_caption_names_what_the_picture_shows():
    still = stills.Still(0, (SMALL, LARGE), PLACED)
    red = r"an? (small |little )?red (circle|disc)( at the bottom left)?"
    blue = r"an? (large |big )?blue (cross|plus)( pointing right)?( in the middle)?"
    for caption in (made := captions(still)):
        told = re.sub(r"^(there is|the video shows) ", "", caption)
        parts = re.split(r" and | with |, ", told)
        assert all(re.fullmatch(f"{red}|{blue}", part) for part in parts), caption
    # Every word of the grammar is said, and each part is left out now and then.
    for word in ("small", "little", "circle", "disc", "large", "big", "cross", "plus", "pointing", "middle", "left"):
        share = np.mean([word in caption for caption in made])
        assert 0.05 < share < 0.95, word


def test_no_caption_tells_of_an_action():
    rng = random.Random(0)
    words = {word for _ in range(300) for still in stills.draw_stills(rng, 2) for word in still.caption(rng).split()}
    actions = {phrase.split()[0] for phrases in VERBS.values() for phrase in phrases} - {"shows"}
    assert not actions & words
    spoken = {word for table in (SHAPE_WORDS, SIZE_WORDS) for phrases in table.values() for word in phrases}
    assert (set(COLORS) | spoken) <= {word.strip(",") for word in words}


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (0.1, 0.1, "at the top left"),
        (0.5, 0.9, "at the bottom"),
        (0.9, 0.5, "at the right"),
        (0.5, 0.5, "in the middle"),
    ],
)
def test_places_are_those_of_the_picture(x, y, place):
    still = stills.Still(1, (SMALL,), (Pose(x, y, 0.19, 0.0, True),))
    told = [caption for caption in captions(still, 60) if " at " in caption or " in " in caption]
    assert told
    assert all(caption.endswith(place) for caption in told)


@pytest.mark.parametrize(("diameter", "words"), [(0.1, {"tiny"}), (0.2, {"small", "little"}), (0.45, {"huge"})])
def test_sizes_are_those_in_the_picture(diameter, words):
    """A shape that has grown or shrunk in a video is as large as it looks."""
    still = stills.Still(0, (LARGE,), (Pose(0.5, 0.5, diameter, 0.0, True),))
    sizes = {"tiny", "small", "little", "large", "big", "huge"}
    assert {word for caption in captions(still, 60) for word in caption.split()} & sizes == words


def test_a_group_shares_what_it_shows_and_the_shapes_are_apart():
    """Groups differ in poses alone, or in shapes alone."""
    rng, angles, kinds = random.Random(1), [], collections.Counter()
    for _ in range(60):
        group = stills.draw_stills(rng, 4)
        looks = {(still.background, tuple((one.color, one.size) for one in still.entities)) for still in group}
        assert len(looks) == 1
        kinds[len({still.entities for still in group}) > 1, len({still.poses for still in group})] += 1
        for still in group:
            assert not any(one.resembles(other) for one, other in itertools.combinations(still.entities, 2))
            angles += [pose.angle for pose in still.poses]
            boxes = [pose_box(entity.shape, pose) for entity, pose in zip(still.entities, still.poses, strict=True)]
            assert all(min(low, 1 - high) >= 0 for box in boxes for low, high in (box[::2], box[1::2]))
    assert set(kinds) == {(False, 4), (True, 1)}
    assert min(kinds.values()) > 20
    assert 0.15 < np.mean(np.array(angles) != 0) < 0.45
    assert stills.draw_stills(random.Random(2), 3) == stills.draw_stills(random.Random(2), 3)


def test_the_picture_shows_the_entities():
    picture = stills.Still(2, (SMALL, LARGE), PLACED).picture(64)
    assert picture.shape == (64, 64, 3)
    # Beside the hands, at the bottom left and in the middle; and nothing at the top right.
    np.testing.assert_array_equal(picture[54, 12], COLORS["red"])
    np.testing.assert_array_equal(picture[32, 24], COLORS["blue"])
    np.testing.assert_array_equal(picture[3, 60], BACKGROUNDS[2])
    assert set(SHAPES) == set(SHAPE_WORDS)
