"""Single pictures of the world and what they show: the pre-training data of `shapes-clip`.

A still shows one to three shapes at rest. Its caption names some of them with the grammar's synonyms; sizes, places and
directions may be omitted. It says nothing about actions, which a still cannot show.
"""

import dataclasses
import math
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from hbi_jax.data.shapes.entities import SHAPES, Entity
from hbi_jax.data.shapes.grammar import SHAPE_WORDS, SIZE_WORDS
from hbi_jax.data.shapes.plan import draw_entity
from hbi_jax.data.shapes.renderer import draw_picture
from hbi_jax.data.shapes.scenes import DIAMETER, EDGE, GAP, GROWTH, NUM_BACKGROUNDS, SHRINK, Pose

# Captions of one and of two of the shapes.
TEMPLATES = {
    1: ("{0}", "there is {0}", "the video shows {0}"),
    2: ("{0} and {1}", "there is {0} and {1}", "{0} with {1}", "{0}, {1}"),
}
# Words for a shape's size in the picture, which actions change: below the first diameter it is tiny, and so on.
_TINY, _LARGE, _HUGE = 0.145, 0.26, 0.39
_COLUMNS, _ROWS = ("left", "", "right"), ("top", "", "bottom")
_DIRECTIONS = ("up", "right", "down", "left")
_TURNED_SHARE, _OTHER_SIZE_SHARE, _OTHER_SHAPES_SHARE = 0.3, 0.5, 0.5
_TRIES = 100


@dataclasses.dataclass(frozen=True)
class Still:
    """A picture: the index of its background, its entities, and their poses."""

    background: int
    entities: tuple[Entity, ...]
    poses: tuple[Pose, ...]

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Returns the RGB picture, 0..255."""
        return draw_picture(self.background, self.entities, self.poses, size)

    def caption(self, rng: random.Random) -> str:
        """Returns a random caption of one or two of the entities."""
        count = min(len(self.entities), 1 if rng.random() < 0.25 else 2)
        told = rng.sample(range(len(self.entities)), count)
        return rng.choice(TEMPLATES[count]).format(*(self._phrase(number, rng) for number in told))

    def _phrase(self, number: int, rng: random.Random) -> str:
        entity, pose = self.entities[number], self.poses[number]
        words = [entity.color, rng.choice(SHAPE_WORDS[entity.shape])]
        if rng.random() < 0.5:
            words.insert(0, _size_word(pose.diameter, rng))
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
        if pose.angle and rng.random() < 0.7:
            words.append(f"pointing {_DIRECTIONS[round(pose.angle / (math.pi / 2)) % 4]}")
        if rng.random() < 0.7:
            words.append(_place(pose))
        return " ".join(words)


def draw_stills(rng: random.Random, count: int) -> list[Still]:
    """Returns random stills of one background that are alike.

    They share their entities, so that only sizes, places and angles differ, or all but the shapes, which otherwise are
    seldom what tells the stills of a batch apart.
    """
    entities: tuple[Entity, ...] = ()
    for _ in range(rng.choices((1, 2, 3), (3, 5, 2))[0]):
        entities += (draw_entity(rng, entities),)
    background = rng.randrange(NUM_BACKGROUNDS)
    if rng.random() < _OTHER_SHAPES_SHARE:
        poses = _poses(entities, rng)
        return [Still(background, _other_shapes(entities, rng), poses) for _ in range(count)]
    return [Still(background, entities, _poses(entities, rng)) for _ in range(count)]


def _other_shapes(entities: Sequence[Entity], rng: random.Random) -> tuple[Entity, ...]:
    """Returns entities of the same colours and sizes with random shapes."""
    while True:
        drawn = tuple(dataclasses.replace(entity, shape=rng.choice(SHAPES)) for entity in entities)
        if not any(one.resembles(other) for place, one in enumerate(drawn) for other in drawn[:place]):
            return drawn


def _poses(entities: Sequence[Entity], rng: random.Random) -> tuple[Pose, ...]:
    """Returns poses in which the shapes lie within the picture and, unless there is no room, do not touch."""
    for _ in range(_TRIES):
        poses: list[Pose] = []
        for entity in entities:
            diameter = DIAMETER[entity.size]
            if rng.random() < _OTHER_SIZE_SHARE:
                diameter = rng.uniform(DIAMETER["small"] * SHRINK, DIAMETER["large"] + GROWTH)
            turned = rng.random() < _TURNED_SHARE
            margin = EDGE + diameter * (math.sqrt(0.5) if turned else 0.5)
            x, y = (rng.uniform(margin, 1 - margin) for _ in range(2))
            poses.append(Pose(x, y, diameter, rng.uniform(0.1, 2 * math.pi - 0.1) if turned else 0.0, True))
        if all(_apart(one, other) for place, one in enumerate(poses) for other in poses[:place]):
            break
    return tuple(poses)


def _apart(one: Pose, other: Pose) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) > (one.diameter + other.diameter) / 2 + GAP


def _size_word(diameter: float, rng: random.Random) -> str:
    if diameter < _TINY:
        return "tiny"
    if diameter > _HUGE:
        return "huge"
    return rng.choice(SIZE_WORDS["small" if diameter < _LARGE else "large"])


def _place(pose: Pose) -> str:
    column, row = (names[min(int(3 * at), 2)] for names, at in ((_COLUMNS, pose.x), (_ROWS, pose.y)))
    words = " ".join(filter(None, (row, column)))
    return f"at the {words}" if words else "in the middle"
