import collections
import dataclasses
import pathlib
import subprocess
import sys

import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes.entities import ACTIONS
from hbi_jax.data.shapes.plan import SPLITS, plan_world, video_ids

CONFIG = shapes.WorldConfig(num_train=600, num_val=60, num_test=90, num_twin_groups=20)


@pytest.fixture(scope="module")
def plan():
    return plan_world(CONFIG)


def _split(plan, split):
    return [video for video in plan if video.split == split]


def test_counts_and_ids(plan):
    assert [len(_split(plan, split)) for split in SPLITS] == [600, 60, 90, 80]
    assert [video.video_id for video in plan] == [f"video{n}" for n in range(830)]
    assert video_ids(CONFIG) == tuple(video.video_id for video in plan)
    for split in ("train", "val", "test", "twins"):
        videos = _split(plan, split)
        assert sum(len(video.events) == 2 for video in videos) / len(videos) == pytest.approx(0.6, abs=0.05)


def test_no_events_are_in_two_splits_nor_twice_in_a_gallery(plan):
    events = {split: [video.events for video in _split(plan, split)] for split in SPLITS}
    for split in SPLITS:
        others = {e for other in SPLITS if other != split for e in events[other]}
        assert not others.intersection(events[split])
    for split in ("val", "test", "twins"):
        assert len(set(events[split])) == len(events[split])


def test_the_two_of_a_video_differ_in_color_or_shape(plan):
    pairs = [video.events for video in plan if len(video.events) == 2]
    assert len(pairs) > 300
    assert not any(a.entity.resembles(b.entity) for a, b in pairs)


def test_twins_share_entities_and_differ_in_action_or_order(plan):
    groups = collections.defaultdict(list)
    for video in _split(plan, "twins"):
        groups[video.group].append(video.events)
    assert sorted(groups) == list(range(20))
    kinds = collections.Counter()
    for group in groups.values():
        assert len(group) == len(set(group)) == 4
        assert len({frozenset(event.entity for event in events) for events in group}) == 1
        orders = {tuple(event.entity for event in events) for events in group}
        actions = {frozenset(event.action for event in events) for events in group}
        kinds[len(group[0]), len(orders), len(actions) > 1] += 1
    # One event: four actions. Two events: four actions of one of them; both orders of the same two actions, or of an
    # action and its look-alike.
    assert kinds == {(1, 1, True): 8, (2, 1, True): 4, (2, 2, False): 4, (2, 2, True): 4}


def test_a_random_batch_of_the_training_set_holds_near_twins(plan):
    train = _split(plan, "train")
    grouped = [video for video in train if video.group is not None]
    assert len(grouped) / len(train) == pytest.approx(0.5, abs=0.01)
    numbers = [video.index for video in grouped]
    assert 250 < sum(numbers) / len(numbers) < 350  # spread over the whole set, not at one end
    pairs = collections.Counter(frozenset(e.entity for e in v.events) for v in grouped if len(v.events) == 2)
    assert sum(count >= 12 for count in pairs.values()) >= 10  # families of three groups
    none = plan_world(shapes.WorldConfig(num_train=40, near_twin_share=0.0))
    assert not any(video.group is not None for video in _split(none, "train"))


def test_every_action_occurs_alike(plan):
    counts = collections.Counter(event.action for video in plan for event in video.events)
    assert set(counts) == set(ACTIONS)
    assert max(counts.values()) < 2 * min(counts.values())


def test_held_out_videos_do_not_depend_on_the_size_of_train(plan):
    other = plan_world(shapes.WorldConfig(num_train=10, num_val=60, num_test=90, num_twin_groups=20))
    for split in ("val", "test", "twins"):
        assert [v.events for v in _split(other, split)] == [v.events for v in _split(plan, split)]


def test_the_seed_changes_everything():
    one, other = (plan_world(shapes.WorldConfig(num_train=20, num_test=20, seed=seed)) for seed in (0, 1))
    assert [video.events for video in one] != [video.events for video in other]
    assert one == plan_world(shapes.WorldConfig(num_train=20, num_test=20, seed=0))


def test_too_many_held_out_single_events():
    with pytest.raises(shapes.ShapesError, match=r"1056.*two_event_share"):
        plan_world(shapes.WorldConfig(num_test=2000))


def test_too_few_single_events_to_show_twice():
    few = {"num_train": 4000, "num_val": 200, "num_test": 256, "num_twin_groups": 50}
    with pytest.raises(shapes.ShapesError, match=r"nearly all of the 1056 .*duplicate_share.*videos_per_scene"):
        plan_world(shapes.WorldConfig(**few, duplicate_share=1.0, videos_per_scene=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_train", -1), ("two_event_share", 1.2), ("image_size", 65), ("num_frames", 8), ("crf", 50)],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(shapes.ShapesError, match=f"{field}={value}"):
        shapes.WorldConfig(**{field: value})


def test_a_setting_of_the_wrong_kind_is_named():
    # In a process of its own: in this one the type checker of the tests is faster with its complaint.
    code = """
from hbi_jax.data import shapes
for field, value in (("num_test", "9"), ("fps", 2.5), ("two_event_share", True)):
    try:
        shapes.WorldConfig(**{field: value})
    except shapes.ShapesError as error:
        print(error)
"""
    root = pathlib.Path(__file__).parents[3]
    lines = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    numbers, rates, shares = lines.stdout.splitlines()
    assert numbers.startswith("WorldConfig.num_test='9' is not a whole number")
    assert rates.startswith("WorldConfig.fps=2.5 is not a whole number")
    assert shares.startswith("WorldConfig.two_event_share=True is not a number")


def test_an_empty_world_is_refused():
    with pytest.raises(shapes.ShapesError, match="no video at all"):
        shapes.WorldConfig(num_train=0, num_val=0, num_test=0, num_twin_groups=0)


def test_duplicates_are_a_share_of_train_and_change_nothing_else():
    """150 videos of 4 scenes, which no other video shows; galleries and other events are those without duplicates."""
    config = dataclasses.replace(CONFIG, duplicate_share=0.25, videos_per_scene=40)
    noisy, clean = plan_world(config), plan_world(CONFIG)
    for split in ("val", "test", "twins"):
        assert [video.events for video in _split(noisy, split)] == [video.events for video in _split(clean, split)]
    counts = collections.Counter(video.events for video in _split(noisy, "train"))
    assert sum(counts.values()) == 600
    scenes = [(events, count) for events, count in counts.most_common(5)]
    assert sorted(count for _, count in scenes)[1:] == [37, 37, 38, 38]
    assert scenes[4][1] < 8
    shown = {events for events, _ in scenes[:4]}
    repeated = [video for video in _split(noisy, "train") if video.events in shown]
    assert all(video.group is None for video in repeated)
    assert not shown & {video.events for video in noisy if video.split != "train"}
