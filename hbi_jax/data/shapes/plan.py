"""Plans the events of every video: disjoint splits, random galleries and groups of near-twins."""

import dataclasses
import random
from collections.abc import Callable

from hbi_jax.data.shapes.config import ShapesError, WorldConfig
from hbi_jax.data.shapes.entities import ACTIONS, COLORS, OPPOSITE, SHAPES, SIZES, Entity, Event, Events

SPLITS = ("train", "val", "test", "twins")
GROUP_SIZE = 4
_NUM_SINGLE = len(COLORS) * len(SHAPES) * len(SIZES) * len(ACTIONS)
# If one single event is left, it is found in these draws in all but one of ten billion worlds.
_MOST_DRAWS = 25_000


@dataclasses.dataclass(frozen=True)
class PlannedVideo:
    """A video's events, before entities are placed in the picture.

    Attributes:
      video_id: "video<n>", numbered through all splits.
      split: One of `SPLITS`.
      index: Number within the split.
      events: The events, in chronological order.
      group: Number, within the split, of the video's group of near-twins; None for an independent video.
    """

    video_id: str
    split: str
    index: int
    events: Events
    group: int | None


def plan_world(config: WorldConfig) -> tuple[PlannedVideo, ...]:
    """Returns the plan of every video of a world, in the order of `SPLITS`.

    Held-out events are drawn first and excluded from training, so no exact combination of events is in two splits.
    Within val, test and twins, no combination occurs twice. Within train it may, because there are only 1,056 distinct
    single events, and it does in the share of `duplicate_share`.

    Raises:
      ShapesError: If more than half of all single events would be held out, or too few are left to be shown twice.
    """
    single_share = 1 - config.two_event_share
    held_single = (config.num_val + config.num_test + GROUP_SIZE * config.num_twin_groups) * single_share
    if held_single > _NUM_SINGLE / 2:
        raise ShapesError(
            f"num_val, num_test and num_twin_groups hold out about {held_single:.0f} videos of one event; at "
            f"most {_NUM_SINGLE // 2} of the {_NUM_SINGLE} single events may be; lower these numbers or "
            "raise two_event_share."
        )
    taken: set[Events] = set()
    test = _independent(config, "test", config.num_test, taken, reserve=True)
    val = _independent(config, "val", config.num_val, taken, reserve=True)
    twins = _groups(config, "twins", config.num_twin_groups, taken, reserve=True)
    num_duplicates = round(config.num_train * config.duplicate_share)
    num_others = config.num_train - num_duplicates
    num_groups = round(num_others * config.near_twin_share) // GROUP_SIZE
    train = _groups(config, "train", num_groups, taken, reserve=False)
    train += _independent(config, "train", num_others - len(train), taken, reserve=False)
    train += _duplicates(config, num_duplicates, taken)
    random.Random(f"{config.seed}/train/order").shuffle(train)  # to mix groups with independent videos
    rows = [
        (split, index, events, group)
        for split, videos in zip(SPLITS, (train, val, test, twins), strict=True)
        for index, (events, group) in enumerate(videos)
    ]
    return tuple(PlannedVideo(name, *row) for name, row in zip(video_ids(config), rows, strict=True))


def video_ids(config: WorldConfig) -> tuple[str, ...]:
    """Returns the ids of a world's videos, in the order of `plan_world`."""
    return tuple(f"video{number}" for number in range(config.num_videos))


def draw_entity(rng: random.Random, unlike: tuple[Entity, ...] = (), sizes: tuple[str, ...] = SIZES) -> Entity:
    """Returns a random entity that differs in color or shape from each of `unlike`."""
    while True:
        entity = Entity(rng.choice(tuple(COLORS)), rng.choice(SHAPES), rng.choice(sizes))
        if not any(entity.resembles(other) for other in unlike):
            return entity


def _independent(
    config: WorldConfig, split: str, count: int, taken: set[Events], reserve: bool
) -> list[tuple[Events, None]]:
    rng = random.Random(f"{config.seed}/{split}/independent")
    videos = []
    for has_two in _spread(count, config.two_event_share, rng):
        (events,) = _draw_free(lambda has_two=has_two: (_draw_events(rng, has_two),), taken, reserve)
        videos.append((events, None))
    return videos


def _groups(config: WorldConfig, split: str, count: int, taken: set[Events], reserve: bool) -> list[tuple[Events, int]]:
    rng = random.Random(f"{config.seed}/{split}/groups")
    videos, pair, uses, kind = [], (), 0, 0
    for group, has_two in enumerate(_spread(count, config.two_event_share, rng)):
        if not has_two:
            members = _draw_free(lambda: _single_group(rng), taken, reserve)
        else:
            if reserve or not pair or uses == config.groups_per_family:
                # Groups of a training family share a pair of entities, so that random batches often contain near-twins.
                first = draw_entity(rng)
                pair, uses = (first, draw_entity(rng, unlike=(first,))), 0
            draw_group = (_action_group, _binding_group, _contrast_group)[kind % 3]
            members = _draw_free(lambda draw=draw_group, pair=pair: draw(rng, *pair), taken, reserve)
            uses, kind = uses + 1, kind + 1
        videos += [(events, group) for events in members]
    return videos


def _duplicates(config: WorldConfig, count: int, taken: set[Events]) -> list[tuple[Events, None]]:
    """Returns training videos of which several show the same events; they differ in place, time and background."""
    rng = random.Random(f"{config.seed}/train/duplicates")
    num_scenes = max(1, round(count / config.videos_per_scene))
    shown = set(taken)
    scenes = [
        _draw_free(lambda has_two=has_two: (_draw_events(rng, has_two),), shown, reserve=True)[0]
        for has_two in _spread(num_scenes, config.two_event_share, rng)
    ]
    return [(scenes[number % num_scenes], None) for number in range(count)]


def _spread(count: int, share: float, rng: random.Random) -> list[bool]:
    """Returns `count` flags in random order, with `share` of them (rounded) True."""
    num_true = round(count * share)
    flags = [True] * num_true + [False] * (count - num_true)
    rng.shuffle(flags)
    return flags


def _draw_free(draw: Callable[[], tuple[Events, ...]], taken: set[Events], reserve: bool) -> tuple[Events, ...]:
    """Draws until no combination of events is in `taken`; with `reserve`, adds the result to `taken`.

    Raises:
      ShapesError: If nearly all combinations are taken.
    """
    for _ in range(_MOST_DRAWS):
        drawn = draw()
        if not taken.intersection(drawn):
            if reserve:
                taken.update(drawn)
            return drawn
    raise ShapesError(
        f"nearly all of the {_NUM_SINGLE} single events are shown already, and no other was drawn in {_MOST_DRAWS:,} "
        "draws; lower num_val, num_test, num_twin_groups or duplicate_share, or raise two_event_share or "
        "videos_per_scene."
    )


def _draw_events(rng: random.Random, has_two: bool) -> Events:
    first = draw_entity(rng)
    if not has_two:
        return (Event(first, rng.choice(ACTIONS)),)
    second = draw_entity(rng, unlike=(first,))
    return Event(first, rng.choice(ACTIONS)), Event(second, rng.choice(ACTIONS))


def _four_actions(rng: random.Random) -> tuple[str, ...]:
    """Returns two pairs of actions; each pair looks alike if its frames are shuffled."""
    first = rng.choice(ACTIONS)
    rest = [action for action in ACTIONS if action not in (first, OPPOSITE[first])]
    second = rng.choice([action for action in rest if OPPOSITE[action] in rest])
    return first, OPPOSITE[first], second, OPPOSITE[second]


def _single_group(rng: random.Random) -> tuple[Events, ...]:
    """Returns a group with one entity and four actions."""
    entity = draw_entity(rng)
    return tuple((Event(entity, action),) for action in _four_actions(rng))


def _action_group(rng: random.Random, one: Entity, other: Entity) -> tuple[Events, ...]:
    """Returns a group in which one entity's action is fixed and the other's takes four values."""
    same, first_varies = rng.choice(ACTIONS), rng.random() < 0.5
    return tuple(
        (Event(one, action), Event(other, same)) if first_varies else (Event(one, same), Event(other, action))
        for action in _four_actions(rng)
    )


def _binding_group(rng: random.Random, one: Entity, other: Entity) -> tuple[Events, ...]:
    """Returns a group that varies which entity does which action, and the order. The captions can share all words."""
    a, b = rng.sample(ACTIONS, 2)
    return (
        (Event(one, a), Event(other, b)),
        (Event(other, b), Event(one, a)),
        (Event(one, b), Event(other, a)),
        (Event(other, a), Event(one, b)),
    )


def _contrast_group(rng: random.Random, one: Entity, other: Entity) -> tuple[Events, ...]:
    """Returns a group that varies one action (itself or its look-alike) and the order."""
    a, b = rng.choice(ACTIONS), rng.choice(ACTIONS)
    return (
        (Event(one, a), Event(other, b)),
        (Event(other, b), Event(one, a)),
        (Event(one, OPPOSITE[a]), Event(other, b)),
        (Event(other, b), Event(one, OPPOSITE[a])),
    )
