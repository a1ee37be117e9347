"""Which events every video shows: splits that share none, random galleries, groups of near-twins."""

import dataclasses
import random
from collections.abc import Callable

from hbi_jax.data.shapes.config import ShapesError, WorldConfig
from hbi_jax.data.shapes.entities import ACTIONS, COLORS, OPPOSITE, SHAPES, SIZES, Entity, Event, Events

SPLITS = ("train", "val", "test", "twins")
GROUP_SIZE = 4
_NUM_SINGLE = len(COLORS) * len(SHAPES) * len(SIZES) * len(ACTIONS)


@dataclasses.dataclass(frozen=True)
class PlannedVideo:
    """A video before anybody knows where in the picture things stand.

    Attributes:
      video_id: "video<n>", n counting through all splits.
      split: One of `SPLITS`.
      index: Number within the split.
      events: What happens, in order.
      group: Number within the split of the group of near-twins it belongs to; None for an independent video.
    """

    video_id: str
    split: str
    index: int
    events: Events
    group: int | None


def plan_world(config: WorldConfig) -> tuple[PlannedVideo, ...]:
    """Draws the events of every video of a world, in the order of `SPLITS`.

    Held-out events are drawn first and training avoids them: no exact combination of events is in two splits.
    Within val, test and twins none occurs twice. In train a combination may, because there are only 1,056
    different single events.

    Raises:
      ShapesError: More single events would be held out than half of those that exist.
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
    num_groups = round(config.num_train * config.near_twin_share) // GROUP_SIZE
    train = _groups(config, "train", num_groups, taken, reserve=False)
    train += _independent(config, "train", config.num_train - len(train), taken, reserve=False)
    random.Random(f"{config.seed}/train/order").shuffle(train)  # no run of numbers is all of one kind
    rows = [
        (split, index, events, group)
        for split, videos in zip(SPLITS, (train, val, test, twins), strict=True)
        for index, (events, group) in enumerate(videos)
    ]
    return tuple(PlannedVideo(name, *row) for name, row in zip(video_ids(config), rows, strict=True))


def video_ids(config: WorldConfig) -> tuple[str, ...]:
    """The ids of a world's videos, in the order of `plan_world`."""
    return tuple(f"video{number}" for number in range(config.num_videos))


def draw_entity(rng: random.Random, unlike: tuple[Entity, ...] = (), sizes: tuple[str, ...] = SIZES) -> Entity:
    """Draws an entity that differs in color or shape from each of `unlike`."""
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
                # A training family speaks of one pair of entities, so that a random batch meets near-twins often.
                first = draw_entity(rng)
                pair, uses = (first, draw_entity(rng, unlike=(first,))), 0
            draw_group = (_action_group, _binding_group, _contrast_group)[kind % 3]
            members = _draw_free(lambda draw=draw_group, pair=pair: draw(rng, *pair), taken, reserve)
            uses, kind = uses + 1, kind + 1
        videos += [(events, group) for events in members]
    return videos


def _spread(count: int, share: float, rng: random.Random) -> list[bool]:
    """`count` flags, the rounded share of them True, in random order."""
    num_true = round(count * share)
    flags = [True] * num_true + [False] * (count - num_true)
    rng.shuffle(flags)
    return flags


def _draw_free(draw: Callable[[], tuple[Events, ...]], taken: set[Events], reserve: bool) -> tuple[Events, ...]:
    """Draws until nothing drawn is held out; `reserve` holds the result out from then on."""
    while True:
        drawn = draw()
        if not taken.intersection(drawn):
            if reserve:
                taken.update(drawn)
            return drawn


def _draw_events(rng: random.Random, has_two: bool) -> Events:
    first = draw_entity(rng)
    if not has_two:
        return (Event(first, rng.choice(ACTIONS)),)
    second = draw_entity(rng, unlike=(first,))
    return Event(first, rng.choice(ACTIONS)), Event(second, rng.choice(ACTIONS))


def _four_actions(rng: random.Random) -> tuple[str, ...]:
    """Two actions that look alike when shuffled, and two more that do."""
    first = rng.choice(ACTIONS)
    rest = [action for action in ACTIONS if action not in (first, OPPOSITE[first])]
    second = rng.choice([action for action in rest if OPPOSITE[action] in rest])
    return first, OPPOSITE[first], second, OPPOSITE[second]


def _single_group(rng: random.Random) -> tuple[Events, ...]:
    """One entity, four actions."""
    entity = draw_entity(rng)
    return tuple((Event(entity, action),) for action in _four_actions(rng))


def _action_group(rng: random.Random, one: Entity, other: Entity) -> tuple[Events, ...]:
    """Two entities, of which one does the same in all and the other takes four actions."""
    same, first_varies = rng.choice(ACTIONS), rng.random() < 0.5
    return tuple(
        (Event(one, action), Event(other, same)) if first_varies else (Event(one, same), Event(other, action))
        for action in _four_actions(rng)
    )


def _binding_group(rng: random.Random, one: Entity, other: Entity) -> tuple[Events, ...]:
    """Two entities, two actions: who does which, and who is first. The four captions can share all words."""
    a, b = rng.sample(ACTIONS, 2)
    return (
        (Event(one, a), Event(other, b)),
        (Event(other, b), Event(one, a)),
        (Event(one, b), Event(other, a)),
        (Event(other, a), Event(one, b)),
    )


def _contrast_group(rng: random.Random, one: Entity, other: Entity) -> tuple[Events, ...]:
    """Two entities, one action against its look-alike, in both orders."""
    a, b = rng.choice(ACTIONS), rng.choice(ACTIONS)
    return (
        (Event(one, a), Event(other, b)),
        (Event(other, b), Event(one, a)),
        (Event(one, OPPOSITE[a]), Event(other, b)),
        (Event(other, b), Event(one, OPPOSITE[a])),
    )
