"""The times at which the frames of a video are shown, and whether their rate is constant."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

# Ticks per second of the clock for sampling at a variable rate: MPEG's clock, a multiple of 24, 25 and 30.
CLOCK = 90_000
# Rounding of times in containers, in seconds; most round to milliseconds.
ROUNDING = 1e-3

# The rate in the header is trusted if it predicts the time of the last frame within this share of the video's span.
_RATE_ERROR = 0.01
# The last frame counts as a pause if it is shown longer than the others by this factor.
_LONGER = 1.5


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The times at which the frames of a video are shown.

    Attributes:
      times: Ascending times of the frames, in seconds from the beginning of the file's presentation. As in players, the
        presentation begins with the first stream of the file, so the first time is above 0 if pictures start late.
      end: End of the last frame, in seconds.
      stated: Frames per second by the header; `None` if it states no rate.
      tick: Time unit of the file, in seconds.
    """

    times: Float[np.ndarray, " n"]
    end: float
    stated: float | None = None
    tick: float = ROUNDING

    @functools.cached_property
    def measured(self) -> float | None:
        """Frames per second between the first and the last frame; `None` if their times are equal."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return float((len(self.times) - 1) / span) if span > 0 else None

    @functools.cached_property
    def rate(self) -> float:
        """Frames per second: the stated rate, or the measured rate if the frames' times contradict the header."""
        if self.stated and self.measured:
            off = abs((len(self.times) - 1) * (1 / self.stated - 1 / self.measured))
            if off > _RATE_ERROR * (self.times[-1] - self.times[0]) + 2 * ROUNDING:
                return self.measured
        return self.stated or self.measured or 1.0

    @functools.cached_property
    def interval(self) -> float:
        """The usual duration of a frame, in seconds."""
        steps = np.diff(self.times)
        return float(np.median(steps)) if len(steps) else 1 / self.rate

    @functools.cached_property
    def is_constant(self) -> bool:
        """Whether all frames are shown equally long, up to the rounding of their times."""
        if self.measured is None:
            return True
        even = np.linspace(self.times[0], self.times[-1], len(self.times))
        off = np.abs(self.times - even).max()
        stays = self.end - self.times[-1] > _LONGER * self.interval + ROUNDING
        return bool(off <= max(1.1 * ROUNDING, 0.55 * self.tick)) and not stays

    @property
    def clock(self) -> float:
        """Ticks per second of the sampling clock; at a constant rate, each frame is one tick."""
        return self.rate if self.is_constant else float(CLOCK)

    def until(self, end: float | int | None) -> "Timeline":
        """Returns the part whose frames begin by `end`, in seconds; `None` returns the whole timeline."""
        count = len(self.times) if end is None else int(np.searchsorted(self.times, end + ROUNDING, side="right"))
        if count == len(self.times):
            return self
        return dataclasses.replace(self, times=self.times[:count], end=min(self.end, float(self.times[count])))

    def shown(self, seconds: Float[np.ndarray, " m"]) -> np.ndarray:
        """Returns the number of the frame shown at each time: the last frame that has begun, or else the first."""
        return np.maximum(np.searchsorted(self.times, seconds + ROUNDING, side="right") - 1, 0)
