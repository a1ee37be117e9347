"""Renders scenes to frames and computes the exact bounding boxes of their shapes."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageChops, ImageDraw

from hbi_jax.data.shapes.entities import COLORS, Entity
from hbi_jax.data.shapes.scenes import NUM_BACKGROUNDS, Pose, Scene

BACKGROUNDS = ((58, 62, 72), (78, 72, 66), (60, 76, 68), (88, 88, 94), (72, 62, 80))
assert len(BACKGROUNDS) == NUM_BACKGROUNDS
_SUPERSAMPLING = 4
_RING_HOLE = 0.5  # inner diameter of a ring, relative to the outer
# The hand, a bar from the centre upwards, makes every rotation visible. It cuts through rings and stays
# inside all other shapes.
_HAND_WIDTH = 0.15
_HAND_LENGTH, _RING_HAND_LENGTH = 0.32, 0.6
_LUMA = (0.299, 0.587, 0.114)
# The coverage masks of a shape and its hand, by shape and pose.
Sprites = dict[tuple[str, Pose], tuple[Image.Image, Image.Image]]


def _star() -> tuple[tuple[float, float], ...]:
    corners = []
    for number in range(10):
        radius, angle = (0.5, 0.22)[number % 2], math.pi * number / 5
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return tuple(corners)


# Corners relative to the centre for a diameter of 1; None for shapes drawn with arcs. scenes.Actor.reach relies on
# every corner being inside the unit square, and therefore within sqrt(1/2) of the centre at any rotation.
OUTLINES: dict[str, tuple[tuple[float, float], ...] | None] = {
    "circle": None,
    "ring": None,
    "square": ((-0.46, -0.46), (0.46, -0.46), (0.46, 0.46), (-0.46, 0.46)),
    "triangle": ((0.0, -0.5), (0.5, 0.42), (-0.5, 0.42)),
    "star": _star(),
    "cross": tuple(
        (x, y)
        for x, y in (
            (-0.17, -0.5),
            (0.17, -0.5),
            (0.17, -0.17),
            (0.5, -0.17),
            (0.5, 0.17),
            (0.17, 0.17),
            (0.17, 0.5),
            (-0.17, 0.5),
            (-0.17, 0.17),
            (-0.5, 0.17),
            (-0.5, -0.17),
            (-0.17, -0.17),
        )
    ),
}


def render(scene: Scene, size: int) -> UInt8[np.ndarray, "f size size 3"]:
    """Returns every frame of a scene.

    Args:
      scene: The scene.
      size: Height and width in pixels.

    Returns:
      RGB frames, 0..255, antialiased.
    """
    frames = np.empty((scene.num_frames, size, size, 3), np.uint8)
    entities, sprites = [actor.entity for actor in scene.actors], {}
    for number in range(scene.num_frames):
        poses = [actor.pose(number, scene.fps) for actor in scene.actors]
        frames[number] = draw_picture(scene.background, entities, poses, size, sprites)
    return frames


def draw_picture(
    background: int, entities: Sequence[Entity], poses: Sequence[Pose], size: int, sprites: Sprites | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """Returns a picture of entities, the later ones on top.

    Args:
      background: Index of the background.
      entities: The entities; their sizes are ignored.
      poses: The pose of each entity.
      size: Height and width in pixels.
      sprites: A cache for shapes at rest, filled here.
    """
    sprites = {} if sprites is None else sprites
    image = Image.new("RGB", (size, size), BACKGROUNDS[background])
    for entity, pose in zip(entities, poses, strict=True):
        if not pose.visible:
            continue
        key = (entity.shape, pose)
        if key not in sprites:
            sprites[key] = _draw_sprite(entity.shape, pose, size)
        body, hand = sprites[key]
        color = COLORS[entity.color]
        corner = _corner(pose, size)
        image.paste(color, corner, body)
        image.paste(_hand_color(color), corner, hand)
    return np.asarray(image)


def pose_box(shape: str, pose: Pose) -> tuple[float, float, float, float]:
    """Returns the bounding box x0, y0, x1, y1 of a shape, visible or not, as fractions of the picture's side."""
    outline = OUTLINES[shape]
    if outline is None:
        radius = pose.diameter / 2
        return pose.x - radius, pose.y - radius, pose.x + radius, pose.y + radius
    xs, ys = zip(*_turned(outline, pose.angle), strict=True)
    return (
        pose.x + pose.diameter * min(xs),
        pose.y + pose.diameter * min(ys),
        pose.x + pose.diameter * max(xs),
        pose.y + pose.diameter * max(ys),
    )


def scene_boxes(scene: Scene) -> Float[np.ndarray, "actors f 4"]:
    """Returns the `pose_box` of every actor at every frame."""
    return np.asarray(
        [
            [pose_box(actor.entity.shape, actor.pose(f, scene.fps)) for f in range(scene.num_frames)]
            for actor in scene.actors
        ],
        np.float64,
    )


def _turned(outline, angle: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in outline]


def _hand_color(color: tuple[int, int, int]) -> tuple[int, int, int]:
    luma = sum(weight * channel for weight, channel in zip(_LUMA, color, strict=True))
    return (16, 16, 20) if luma > 105 else (250, 250, 250)


def _half(pose: Pose, size: int) -> int:
    """Returns half the width of a sprite's canvas in pixels, with room for any rotation and a margin."""
    return math.ceil(pose.diameter * size * math.sqrt(0.5)) + 2


def _corner(pose: Pose, size: int) -> tuple[int, int]:
    half = _half(pose, size)
    return math.floor(pose.x * size) - half, math.floor(pose.y * size) - half


def _draw_sprite(shape: str, pose: Pose, size: int) -> tuple[Image.Image, Image.Image]:
    """Returns the coverage masks (0..255) of a shape and its hand on a small canvas."""
    width = 2 * _half(pose, size) * _SUPERSAMPLING
    left, top = _corner(pose, size)
    center = ((pose.x * size - left) * _SUPERSAMPLING, (pose.y * size - top) * _SUPERSAMPLING)
    scale = pose.diameter * size * _SUPERSAMPLING

    def points(outline) -> list[tuple[float, float]]:
        # Subtract half a sample: PIL's coordinates refer to sample centres, boxes to sample edges.
        turned = _turned(outline, pose.angle)
        return [(center[0] + scale * x - 0.5, center[1] + scale * y - 0.5) for x, y in turned]

    body = Image.new("L", (width, width))
    draw = ImageDraw.Draw(body)
    outline = OUTLINES[shape]
    if outline is None:
        draw.ellipse(_circle(center, scale / 2), fill=255)
        if shape == "ring":
            draw.ellipse(_circle(center, scale / 2 * _RING_HOLE), fill=0)
    else:
        draw.polygon(points(outline), fill=255)
    hand = Image.new("L", (width, width))
    w, tip = _HAND_WIDTH / 2, -(_RING_HAND_LENGTH if shape == "ring" else _HAND_LENGTH)
    ImageDraw.Draw(hand).polygon(points(((-w, tip), (w, tip), (w, w), (-w, w))), fill=255)
    hand = ImageChops.darker(hand, body)
    return body.reduce(_SUPERSAMPLING), hand.reduce(_SUPERSAMPLING)


def _circle(center: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return (center[0] - radius, center[1] - radius, center[0] + radius - 1, center[1] + radius - 1)
