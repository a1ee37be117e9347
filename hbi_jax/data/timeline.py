"""When the frames of a video are shown, and whether that is at a constant rate."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

# Ticks a second of the clock by which frames are sampled where their rate varies: MPEG's, which 24, 25 and 30 divide.
CLOCK = 90_000
# Containers round times, most of them to milliseconds; in seconds.
ROUNDING = 1e-3

# A rate that the header states is believed if it says within this share when the last frame is shown.
_RATE_ERROR = 0.01
# The last frame may stay longer than the others by this factor before it counts as a pause.
_LONGER = 1.5


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Attributes:
      times: When each is shown, ascending, in seconds from the beginning of the file's presentation as players count
        them: that of its first stream. Pictures that start late have a first time above 0.
      end: When the last one ends.
      stated: Frames a second as the header states them; `None` if it states nothing.
      tick: Unit in which the file counts time, in seconds.
    """

    times: Float[np.ndarray, " n"]
    end: float
    stated: float | None = None
    tick: float = ROUNDING

    @functools.cached_property
    def measured(self) -> float | None:
        """Frames a second between the first and the last frame; `None` where their times do not tell."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return float((len(self.times) - 1) / span) if span > 0 else None

    @functools.cached_property
    def rate(self) -> float:
        """Frames a second: as stated, or as measured where the frames' times contradict the header."""
        if self.stated and self.measured:
            off = abs((len(self.times) - 1) * (1 / self.stated - 1 / self.measured))
            if off > _RATE_ERROR * (self.times[-1] - self.times[0]) + 2 * ROUNDING:
                return self.measured
        return self.stated or self.measured or 1.0

    @functools.cached_property
    def interval(self) -> float:
        """How long a frame is usually shown, in seconds."""
        steps = np.diff(self.times)
        return float(np.median(steps)) if len(steps) else 1 / self.rate

    @functools.cached_property
    def is_constant(self) -> bool:
        """Whether all frames are shown equally long, but for the rounding of their times."""
        if self.measured is None:
            return True
        even = np.linspace(self.times[0], self.times[-1], len(self.times))
        off = np.abs(self.times - even).max()
        stays = self.end - self.times[-1] > _LONGER * self.interval + ROUNDING
        return bool(off <= max(1.1 * ROUNDING, 0.55 * self.tick)) and not stays

    @property
    def clock(self) -> float:
        """Ticks a second of what frames are sampled by: the frames themselves where their rate is constant."""
        return self.rate if self.is_constant else float(CLOCK)

    def until(self, end: float | int | None) -> "Timeline":
        """The part that begins by a time, in seconds; all of it for `None`."""
        count = len(self.times) if end is None else int(np.searchsorted(self.times, end + ROUNDING, side="right"))
        if count == len(self.times):
            return self
        return dataclasses.replace(self, times=self.times[:count], end=min(self.end, float(self.times[count])))

    def shown(self, seconds: Float[np.ndarray, " m"]) -> np.ndarray:
        """Numbers of the frames that a player shows at some times: the last that has begun, or else the first."""
        return np.maximum(np.searchsorted(self.times, seconds + ROUNDING, side="right") - 1, 0)
