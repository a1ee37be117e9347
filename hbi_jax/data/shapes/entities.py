"""The vocabulary of the world: shapes, sizes, colors with their RGB values, and actions."""

import dataclasses

COLORS = {
    "red": (222, 44, 44),
    "orange": (246, 140, 24),
    "yellow": (246, 228, 60),
    "green": (44, 176, 74),
    "cyan": (70, 214, 230),
    "blue": (48, 88, 232),
    "purple": (156, 66, 214),
    "white": (244, 244, 244),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
ACTIONS = (
    "slide left",
    "slide right",
    "slide up",
    "slide down",
    "grow",
    "shrink",
    "spin",
    "bounce",
    "blink",
    "vanish",
    "appear",
)
# The action that an action's shuffled or time-reversed frames resemble most. Near-twins swap within such a pair.
OPPOSITE = {
    "slide left": "slide right",
    "slide right": "slide left",
    "slide up": "slide down",
    "slide down": "slide up",
    "grow": "shrink",
    "shrink": "grow",
    "vanish": "appear",
    "appear": "vanish",
    "spin": "bounce",
    "bounce": "blink",
    "blink": "spin",
}


@dataclasses.dataclass(frozen=True)
class Entity:
    """A shape with a color and a size. `size` is None if a sentence omits it."""

    color: str
    shape: str
    size: str | None

    def resembles(self, other: "Entity") -> bool:
        """Returns whether color and shape are equal. Two such entities never occur in the same video."""
        return (self.color, self.shape) == (other.color, other.shape)


@dataclasses.dataclass(frozen=True)
class Event:
    """An entity that performs one of `ACTIONS`."""

    entity: Entity
    action: str

    def agrees(self, other: "Event") -> bool:
        """Returns whether two events are consistent. An omitted size is consistent with both sizes."""
        sizes = {self.entity.size, other.entity.size} - {None}
        return self.entity.resembles(other.entity) and self.action == other.action and len(sizes) <= 1


# One or two events, in chronological order.
Events = tuple[Event, ...]
