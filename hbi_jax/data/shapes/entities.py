"""The nouns of the world: who can be there, what can happen, and the pictures' colours."""

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
# What the shuffled, or time-reversed, frames of an action look like most: near-twins swap within a pair.
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
    """A shape of a colour and a size; `size` is None where a sentence leaves it out."""

    color: str
    shape: str
    size: str | None

    def resembles(self, other: "Entity") -> bool:
        """True where color and shape agree: two such entities never meet in one video."""
        return (self.color, self.shape) == (other.color, other.shape)


@dataclasses.dataclass(frozen=True)
class Event:
    """One entity doing one of `ACTIONS`."""

    entity: Entity
    action: str

    def agrees(self, other: "Event") -> bool:
        """True where nothing contradicts: a size that is left out agrees with both sizes."""
        sizes = {self.entity.size, other.entity.size} - {None}
        return self.entity.resembles(other.entity) and self.action == other.action and len(sizes) <= 1


# One or two events, in the order in which they happen.
Events = tuple[Event, ...]
