import numpy as np
import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes.entities import ACTIONS
from hbi_jax.data.shapes.renderer import scene_boxes
from hbi_jax.data.shapes.scenes import Actor, stage_world

CONFIG = shapes.WorldConfig(num_train=250, num_val=0, num_test=0, num_twin_groups=15)


@pytest.fixture(scope="module")
def scenes():
    return stage_world(CONFIG)


def _poses(action, **fields):
    actor = Actor(shapes.Entity("red", "square", "small"), action, (2, 22), travel=0.3, **fields)
    return [actor.pose(frame, 8) for frame in range(24)]


def test_every_action_does_what_its_name_says():
    assert {a for a in ACTIONS if _poses(a)[0] == _poses(a)[1]} == set(ACTIONS)  # still before its event
    for action, dx, dy in (
        ("slide left", -0.3, 0),
        ("slide right", 0.3, 0),
        ("slide up", 0, -0.3),
        ("slide down", 0, 0.3),
    ):
        poses = _poses(action)
        assert poses[-1].x - poses[0].x == pytest.approx(dx)
        assert poses[-1].y - poses[0].y == pytest.approx(dy)
    small = _poses("grow")[0].diameter
    assert _poses("grow")[-1].diameter == pytest.approx(small + 0.135)
    assert _poses("shrink")[-1].diameter == pytest.approx(small / 2)
    bounce = [pose.y for pose in _poses("bounce")]
    assert min(bounce) == pytest.approx(0.5 - 0.16, abs=0.01)
    assert bounce[-1] == pytest.approx(bounce[0])
    spin = np.diff([pose.angle for pose in _poses("spin")])
    assert np.allclose(spin[1:21], 2 * np.pi * 2 / 20)  # 2.5 seconds are two turns
    assert [pose.visible for pose in _poses("vanish", moment=0.5)] == [True] * 12 + [False] * 12
    assert [pose.visible for pose in _poses("appear", moment=0.5)] == [False] * 12 + [True] * 12
    blink = np.array([pose.visible for pose in _poses("blink")])
    assert blink[0]
    assert blink[-1]
    assert np.diff(blink.astype(int)).tolist().count(-1) == 3


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_blinking_and_spinning_survive_sampling(scenes, stride):
    for scene in scenes:
        for actor in scene.actors:
            poses = [actor.pose(frame, 8) for frame in range(*actor.span, stride)]
            if actor.action == "blink":
                seen = [pose.visible for pose in poses]
                assert True in seen
                assert False in seen
            elif actor.action == "spin":
                steps = np.diff([pose.angle for pose in poses]) % (2 * np.pi)
                assert (np.abs(steps - np.pi) < np.pi - 0.3).all()  # never looks like standing still


def test_events_follow_one_another(scenes):
    for scene in scenes:
        spans = [actor.span for actor in scene.actors if actor.action]
        assert all(0 < first < end <= 24 and end - first >= 8 for first, end in spans)
        if len(spans) == 2:
            assert spans[0][1] < spans[1][0]
            assert 9 <= spans[0][1] <= 15


def test_nothing_leaves_the_picture_or_touches(scenes):
    close = 0
    for scene in scenes:
        boxes = scene_boxes(scene)
        assert boxes.min() > 0
        assert boxes.max() < 1
        low, high = boxes[..., :2].min(1), boxes[..., 2:].max(1)  # all that an actor ever covers
        for a in range(len(low)):
            for b in range(a):
                gap = np.maximum(low[a] - high[b], low[b] - high[a]).max()
                assert gap > 0.02
                close += gap < 0.1
    assert close > 10


def test_near_twins_share_what_is_not_told(scenes):
    groups = {}
    for scene in scenes:
        if scene.split == "twins":
            others = tuple(actor.entity for actor in scene.actors if actor.action is None)
            groups.setdefault(scene.group, []).append((scene.background, others, scene.actors[0].start))
    looks = [{member[:2] for member in group} for group in groups.values()]
    assert [len(look) for look in looks] == [1] * 15
    assert 2 < sum(bool(others) for look in looks for _, others in look) < 12
    assert all(len({start for _, _, start in group}) > 1 for group in groups.values())


def test_distractors_are_as_frequent_as_asked(scenes):
    share = np.mean([scene.actors[-1].action is None for scene in scenes])
    assert 0.4 < share < 0.6
    none = stage_world(shapes.WorldConfig(num_train=20, distractor_share=0.0))
    assert all(len(scene.actors) == len(scene.events) for scene in none)
    for scene in scenes:
        names = {(actor.entity.color, actor.entity.shape) for actor in scene.actors}
        assert len(names) == len(scene.actors)
