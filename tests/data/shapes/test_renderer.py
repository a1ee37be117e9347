import math

import numpy as np
import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes import encode, renderer
from hbi_jax.data.shapes.entities import COLORS, SHAPES
from hbi_jax.data.shapes.scenes import Actor, Scene, stage_world

CONFIG = shapes.WorldConfig(num_train=40, num_val=0, num_test=0, num_twin_groups=0)


def _scene(*actors):
    return Scene("video0", "test", 0, None, 24, 8, 0, (), actors)


def _close_to(image, color, tolerance):
    return np.abs(image.astype(int) - np.array(color)).max(-1) <= tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("action", [None, "spin", "grow", "slide left"])
def test_the_box_is_the_box_of_the_pixels(shape, action):
    span = (0, 0) if action is None else (2, 22)
    actor = Actor(shapes.Entity("white", shape, "large"), action, span, (0.52, 0.47), travel=0.25)
    frames = renderer.render(_scene(actor), 64)
    (boxes,) = renderer.scene_boxes(_scene(actor))
    background = renderer.BACKGROUNDS[0]
    for frame, box in zip(frames[::3], boxes[::3], strict=True):
        rows, columns = np.nonzero(~_close_to(frame, background, 3))
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(found) - box * 64).max() < 1.3


def test_what_is_unseen_is_not_drawn():
    actor = Actor(shapes.Entity("red", "circle", "small"), "vanish", (2, 22), (0.3, 0.3), moment=0.5)
    frames = renderer.render(_scene(actor), 64)
    painted = [bool(_close_to(frame, COLORS["red"], 5).any()) for frame in frames]
    assert painted == [True] * 12 + [False] * 12
    assert (frames[-1] == np.array(renderer.BACKGROUNDS[0])[None, None]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_shows_on_every_shape(shape):
    entity = shapes.Entity("blue", shape, "small")
    scene = _scene(Actor(entity, "spin", (0, 24), (0.5, 0.5)))
    frames = renderer.render(scene, 64).astype(int)
    video = encode.decode_video(encode.encode_video(renderer.render(scene, 64), CONFIG)).astype(int)
    for clip in (frames, video):
        assert np.abs(clip[0] - clip[5]).max() > 60  # 6 frames are half a turn


def test_sizes_shapes_and_colors_differ_after_compression():
    def picture(color, shape, size):
        frames = renderer.render(_scene(Actor(shapes.Entity(color, shape, size), None, (0, 0))), 64)
        return encode.decode_video(encode.encode_video(frames[:2], CONFIG))[1].astype(int)

    by_shape = [picture("red", shape, "small") for shape in SHAPES]
    by_color = [picture(color, "circle", "small") for color in COLORS]
    for pictures in (by_shape, by_color):
        for a in range(len(pictures)):
            for b in range(a):
                assert (np.abs(pictures[a] - pictures[b]).max(-1) > 40).sum() >= 6
    areas = [(picture("red", "circle", s) - renderer.BACKGROUNDS[0]).max(-1) > 60 for s in ("small", "large")]
    small, large = (area.sum() for area in areas)
    assert large > 2 * small > 2 * 0.6 * math.pi * 6**2 / 2


def test_the_video_is_what_was_drawn():
    scene = stage_world(CONFIG)[3]
    frames = renderer.render(scene, 64)
    video = encode.encode_video(frames, CONFIG)
    assert video == encode.encode_video(renderer.render(scene, 64), CONFIG)
    decoded = encode.decode_video(video)
    assert decoded.shape == frames.shape == (24, 64, 64, 3)
    assert np.abs(decoded.astype(int) - frames).mean() < 4

    def distance(frame, other):
        return np.abs(frame.astype(int) - other).mean()

    compared = 0
    for frame, original in zip(decoded, frames, strict=True):  # in order, none repeated
        different = [other for other in frames if distance(original, other) > 0.5]
        assert all(distance(frame, original) < distance(frame, other) for other in different)
        compared += len(different)
    assert compared > 24


def test_size_and_length_follow_the_config():
    config = shapes.WorldConfig(num_train=1, num_val=0, num_test=0, num_twin_groups=0, image_size=96)
    config = shapes.WorldConfig(**{**vars(config), "num_frames": 16, "fps": 4})
    (scene,) = stage_world(config)
    video = encode.encode_video(renderer.render(scene, 96), config)
    assert encode.decode_video(video).shape == (16, 96, 96, 3)
