"""Where and when things stand and move: a planned video becomes a scene whose every frame is determined."""

import dataclasses
import math
import random

from hbi_jax.data.shapes.config import WorldConfig
from hbi_jax.data.shapes.entities import Entity, Events
from hbi_jax.data.shapes.plan import PlannedVideo, draw_entity, plan_world

# Lengths are shares of the picture's side, times are shares of an event unless they say otherwise.
DIAMETER = {"small": 0.19, "large": 0.33}
GROWTH = 0.135  # added to the diameter
SHRINK = 0.5  # the diameter is multiplied by it
HOP = 0.16
TRAVEL = (0.25, 0.4)
MOMENT = (0.4, 0.6)  # when a thing vanishes or appears
SECONDS_PER_TURN, SECONDS_PER_HOP, SECONDS_PER_BLINK = 1.5, 0.75, 0.75
EDGE, GAP = 0.015, 0.03  # kept free around the picture and between two things
DIRECTIONS = {"slide left": (-1, 0), "slide right": (1, 0), "slide up": (0, -1), "slide down": (0, 1)}
NUM_BACKGROUNDS = 5
_LAYOUT_TRIES = 300


@dataclasses.dataclass(frozen=True)
class Pose:
    """An actor at one frame: centre and diameter in shares of the side, angle in radians, whether seen."""

    x: float
    y: float
    diameter: float
    angle: float
    visible: bool


@dataclasses.dataclass(frozen=True)
class Actor:
    """An entity in a scene.

    Attributes:
      entity: What it looks like.
      action: What it does; None for a distractor, which only stands there.
      span: First frame and frame after the last of its event; (0, 0) for a distractor.
      start: Centre at the beginning, in shares of the picture's side; y grows downwards.
      travel: Length of a slide.
      moment: Share of the event after which it vanishes or appears.
      turn: Sense of rotation, 1 or -1.
    """

    entity: Entity
    action: str | None
    span: tuple[int, int]
    start: tuple[float, float] = (0.5, 0.5)
    travel: float = 0.0
    moment: float = 0.5
    turn: int = 1

    def progress(self, frame: int) -> float:
        """0 before the event, 1 at its last frame and after."""
        first, end = self.span
        return min(max((frame + 1 - first) / max(end - first, 1), 0.0), 1.0)

    def pose(self, frame: int, fps: int) -> Pose:
        """Where the actor is at a frame."""
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
                # Off for three frames in a row at 8 fps, which every third frame cannot miss.
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
        """How far anything of it ever gets from `start`: left, up, right, down."""
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
    """All that is needed to draw a video, describe it and ask about it.

    Attributes:
      video_id, split, index, group: As planned.
      num_frames, fps: Length and frame rate of the video.
      background: Number of the background, below `NUM_BACKGROUNDS`.
      actors: The entities of the events, in their order, then the distractor if there is one.
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
        """Randomness of this video's own for one purpose, whatever the sizes of the splits."""
        return random.Random(f"{config.seed}/{self.split}/{self.index}/{purpose}")


def stage(video: PlannedVideo, config: WorldConfig) -> Scene:
    """Places a planned video's entities in space and time.

    Near-twins share background and distractor; positions and times are each video's own. A distractor that
    finds no room in 300 tries is left out.
    """
    shared = f"group{video.group}" if video.group is not None else f"video{video.index}"
    rng = random.Random(f"{config.seed}/{video.split}/{shared}/look")
    background = rng.randrange(NUM_BACKGROUNDS)
    # Sorted, because near-twins name the same entities in different orders and must draw the same distractor.
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
    """Every scene of a world, in the order of the video numbers."""
    return tuple(stage(video, config) for video in plan_world(config))


def _spans(num_events: int, num_frames: int, rng: random.Random) -> list[tuple[int, int]]:
    """Frames of each event: all but the ends for one, a half each, with a still frame between, for two."""
    slack = num_frames // 12
    first, end = rng.randint(1, slack), num_frames - rng.randint(0, slack)
    if num_events == 1:
        return [(first, end)]
    middle = num_frames // 2 + rng.randint(-(slack // 2), slack // 2)
    return [(first, middle), (middle + 1, end)]


def _place(actors: list[Actor], still: list[Actor], rng: random.Random) -> list[Actor]:
    """Gives every actor a start from which nothing it does leaves the picture or touches another."""
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
    """Two boxes that do not touch are apart along x or y: choose which, then share out the room left."""
    room = [_room(actors, axis) for axis in (0, 1)]
    if max(room) < 0:  # two long slides: the shortest always fit
        actors = [dataclasses.replace(actor, travel=min(actor.travel, TRAVEL[0])) for actor in actors]
        room = [_room(actors, axis) for axis in (0, 1)]
    axis = rng.choices((0, 1), weights=[max(r, 1e-6) if r >= 0 else 0 for r in room])[0]
    near = rng.randrange(2)  # which of the two is on the left, or above
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
