"""Turns planned videos into scenes: places entities in space and time so that every frame is determined."""

import dataclasses
import math
import random

from hbi_jax.data.shapes.config import WorldConfig
from hbi_jax.data.shapes.entities import Entity, Events
from hbi_jax.data.shapes.plan import PlannedVideo, draw_entity, plan_world

# Lengths are fractions of the picture's side. Times are fractions of an event unless the name states a unit.
DIAMETER = {"small": 0.19, "large": 0.33}
GROWTH = 0.135  # added to the diameter
SHRINK = 0.5  # factor of the diameter
HOP = 0.16
TRAVEL = (0.25, 0.4)
MOMENT = (0.4, 0.6)  # range of the time at which a shape vanishes or appears
SECONDS_PER_TURN, SECONDS_PER_HOP, SECONDS_PER_BLINK = 1.5, 0.75, 0.75
EDGE, GAP = 0.015, 0.03  # margins at the picture's edge and between two shapes
DIRECTIONS = {"slide left": (-1, 0), "slide right": (1, 0), "slide up": (0, -1), "slide down": (0, 1)}
NUM_BACKGROUNDS = 5
_LAYOUT_TRIES = 300


@dataclasses.dataclass(frozen=True)
class Pose:
    """An actor at one frame: centre and diameter as fractions of the side, angle in radians, and visibility."""

    x: float
    y: float
    diameter: float
    angle: float
    visible: bool


@dataclasses.dataclass(frozen=True)
class Actor:
    """An entity in a scene.

    Attributes:
      entity: Shape, color and size.
      action: One of `ACTIONS`; None for a distractor, which does nothing.
      span: First frame of the event and the frame after its last; (0, 0) for a distractor.
      start: Initial centre, as fractions of the picture's side; y points down.
      travel: Length of a slide, as a fraction of the side.
      moment: Fraction of the event after which the entity vanishes or appears.
      turn: Direction of rotation, 1 or -1.
    """

    entity: Entity
    action: str | None
    span: tuple[int, int]
    start: tuple[float, float] = (0.5, 0.5)
    travel: float = 0.0
    moment: float = 0.5
    turn: int = 1

    def progress(self, frame: int) -> float:
        """Returns the elapsed fraction of the event: 0 before it, 1 from its last frame on."""
        first, end = self.span
        return min(max((frame + 1 - first) / max(end - first, 1), 0.0), 1.0)

    def pose(self, frame: int, fps: int) -> Pose:
        """Returns the actor's pose at a frame."""
        u, seconds = self.progress(frame), (self.span[1] - self.span[0]) / fps
        x, y = self.start
        diameter, angle, visible = DIAMETER[self.entity.size], 0.0, True
        match self.action:
            case "grow":
                diameter += GROWTH * u
            case "shrink":
                diameter *= 1 - (1 - SHRINK) * u
            case "spin":
                angle = self.turn * 2 * math.pi * u * max(1, round(seconds / SECONDS_PER_TURN))
            case "bounce":
                y -= HOP * abs(math.sin(math.pi * u * max(2, round(seconds / SECONDS_PER_HOP))))
            case "blink":
                blinks = max(2, round(seconds / SECONDS_PER_BLINK))
                # Off for three consecutive frames at 8 fps, so sampling every third frame cannot miss it.
                visible = not 0.25 < u * blinks % 1 < 0.85
            case "vanish":
                visible = u <= self.moment
            case "appear":
                visible = u > self.moment
            case "slide left" | "slide right" | "slide up" | "slide down":
                dx, dy = DIRECTIONS[self.action]
                x, y = x + dx * self.travel * u, y + dy * self.travel * u
        return Pose(x, y, diameter, angle, visible)

    def reach(self) -> tuple[float, float, float, float]:
        """Returns the actor's maximum extent from `start` over time: left, up, right, down."""
        diameter = DIAMETER[self.entity.size]
        radius = diameter / 2
        if self.action == "grow":
            radius += GROWTH / 2
        elif self.action == "spin":
            radius *= math.sqrt(2)
        left = up = right = down = radius
        if self.action == "bounce":
            up += HOP
        elif self.action in DIRECTIONS:
            dx, dy = DIRECTIONS[self.action]
            left, right = left + self.travel * (dx < 0), right + self.travel * (dx > 0)
            up, down = up + self.travel * (dy < 0), down + self.travel * (dy > 0)
        return left, up, right, down


@dataclasses.dataclass(frozen=True)
class Scene:
    """A fully determined video, from which frames, captions and questions are made.

    Attributes:
      video_id, split, index, group, events: As in `PlannedVideo`.
      num_frames, fps: Length and frame rate of the video.
      background: Index of the background, below `NUM_BACKGROUNDS`.
      actors: One actor per event, in the same order, then the distractor if there is one.
    """

    video_id: str
    split: str
    index: int
    group: int | None
    num_frames: int
    fps: int
    background: int
    events: Events
    actors: tuple[Actor, ...]

    def rng(self, purpose: str, config: WorldConfig) -> random.Random:
        """Returns this video's random generator for one purpose, which does not depend on the sizes of the splits."""
        return random.Random(f"{config.seed}/{self.split}/{self.index}/{purpose}")


def stage(video: PlannedVideo, config: WorldConfig) -> Scene:
    """Returns the scene of a planned video, with its entities placed in space and time.

    Near-twins share background and distractor but have independent positions and times. The distractor is omitted if
    300 random layouts leave no room for it.
    """
    shared = f"group{video.group}" if video.group is not None else f"video{video.index}"
    rng = random.Random(f"{config.seed}/{video.split}/{shared}/look")
    background = rng.randrange(NUM_BACKGROUNDS)
    # Sorted, because near-twins have the same entities in different orders and must draw the same distractor.
    entities = tuple(sorted((event.entity for event in video.events), key=repr))
    others = (draw_entity(rng, entities, sizes=("small",)),) if rng.random() < config.distractor_share else ()

    rng = random.Random(f"{config.seed}/{video.split}/{video.index}/layout")
    spans = _spans(len(video.events), config.num_frames, rng)
    actors = [
        Actor(
            event.entity,
            event.action,
            span,
            travel=rng.uniform(*TRAVEL) if event.action in DIRECTIONS else 0.0,
            moment=rng.uniform(*MOMENT),
            turn=rng.choice((-1, 1)),
        )
        for event, span in zip(video.events, spans, strict=True)
    ]
    still = [Actor(entity, None, (0, 0)) for entity in others]
    actors = _place(actors, still, rng)
    return Scene(
        video_id=video.video_id,
        split=video.split,
        index=video.index,
        group=video.group,
        num_frames=config.num_frames,
        fps=config.fps,
        background=background,
        events=video.events,
        actors=tuple(actors),
    )


def stage_world(config: WorldConfig) -> tuple[Scene, ...]:
    """Returns every scene of a world, in the order of video numbers."""
    return tuple(stage(video, config) for video in plan_world(config))


def _spans(num_events: int, num_frames: int, rng: random.Random) -> list[tuple[int, int]]:
    """Returns each event's frame span: all but the ends for one event, about half each, a frame apart, for two."""
    slack = num_frames // 12
    first, end = rng.randint(1, slack), num_frames - rng.randint(0, slack)
    if num_events == 1:
        return [(first, end)]
    middle = num_frames // 2 + rng.randint(-(slack // 2), slack // 2)
    return [(first, middle), (middle + 1, end)]


def _place(actors: list[Actor], still: list[Actor], rng: random.Random) -> list[Actor]:
    """Returns the actors with starts from which none ever leaves the picture or touches another."""
    for _ in range(_LAYOUT_TRIES if still else 1):
        placed = _place_alone(actors[0], rng) if len(actors) == 1 else _place_pair(actors, rng)
        if not still:
            return placed
        extra = _place_alone(still[0], rng)
        if all(_apart(extra[0], other) for other in placed):
            return placed + extra
    return placed


def _place_alone(actor: Actor, rng: random.Random) -> list[Actor]:
    left, up, right, down = actor.reach()
    x, y = rng.uniform(EDGE + left, 1 - EDGE - right), rng.uniform(EDGE + up, 1 - EDGE - down)
    return [dataclasses.replace(actor, start=(x, y))]


def _place_pair(actors: list[Actor], rng: random.Random) -> list[Actor]:
    """Separates two actors along a random axis and distributes the remaining room at random."""
    room = [_room(actors, axis) for axis in (0, 1)]
    if max(room) < 0:  # two long slides do not fit, but the shortest ones do
        actors = [dataclasses.replace(actor, travel=min(actor.travel, TRAVEL[0])) for actor in actors]
        room = [_room(actors, axis) for axis in (0, 1)]
    axis = rng.choices((0, 1), weights=[max(r, 1e-6) if r >= 0 else 0 for r in room])[0]
    near = rng.randrange(2)  # the actor on the left or on top
    before, between = sorted((rng.uniform(0, room[axis]), rng.uniform(0, room[axis])))
    edge = EDGE + before
    placed = [_place_alone(actor, rng)[0] for actor in actors]
    for number in (near, 1 - near):
        reach = placed[number].reach()
        start = list(placed[number].start)
        start[axis] = edge + reach[axis]
        edge = start[axis] + reach[axis + 2] + GAP + between - before
        placed[number] = dataclasses.replace(placed[number], start=tuple(start))
    return placed


def _room(actors: list[Actor], axis: int) -> float:
    extents = [actor.reach()[axis] + actor.reach()[axis + 2] for actor in actors]
    return 1 - 2 * EDGE - GAP - sum(extents)


def _apart(one: Actor, other: Actor) -> bool:
    for axis in (0, 1):
        low, high = sorted((one, other), key=lambda actor: actor.start[axis])
        distance = high.start[axis] - high.reach()[axis] - low.start[axis] - low.reach()[axis + 2]
        if distance >= GAP:
            return True
    return False
