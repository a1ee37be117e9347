"""The settings of a world of moving shapes, and the error type of this package."""

import dataclasses
from typing import Any


class ShapesError(ValueError):
    """An error in generating or reading a world. The message names field, got, wanted and remedy."""


def _setting(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The settings of a world. Each field's help text below is also shown by `generate --help`.

    Equal configurations give byte-identical folders, for any number of processes.

    Raises:
      ShapesError: If a value has the wrong type, is out of range or odd where it must be even, or if there are no
        videos.
    """

    num_train: int = _setting(4000, "training videos")
    num_val: int = _setting(200, "validation videos")
    num_test: int = _setting(256, "test videos; no two show the same events")
    num_twin_groups: int = _setting(50, "groups of four near-twins that share entities (the twin gallery)")
    captions_per_video: int = _setting(5, "paraphrases per video, 1 to 8; the first one mentions everything")
    two_event_share: float = _setting(0.6, "share of videos with two events, 0 to 1; the rest show one")
    near_twin_share: float = _setting(
        0.5, "share of training videos drawn in groups of near-twins, 0 to 1; the rest are independent"
    )
    groups_per_family: int = _setting(
        3, "two-event near-twin groups in training that share a pair of entities; higher values give harder batches"
    )
    duplicate_share: float = _setting(
        0.0,
        "share of training videos that show the same events as others, 0 to 1, so that their captions describe several "
        "videos (label noise)",
    )
    videos_per_scene: int = _setting(
        40, "training videos of that share that show the same events, at least 2; higher values give noisier batches"
    )
    distractor_share: float = _setting(0.5, "share of videos with an additional shape that does nothing, 0 to 1")
    image_size: int = _setting(64, "height and width in pixels; even, 32 to 512")
    num_frames: int = _setting(24, "frames per video, 16 to 480")
    fps: int = _setting(8, "frames per second, 1 to 60")
    crf: int = _setting(18, "H.264 quality, 0 (best) to 40")
    gop: int = _setting(8, "frames between key frames, at least 1")
    seed: int = _setting(0, "seed of all random draws; not negative")

    def __post_init__(self):
        ranges = {
            "num_train": (0, 1_000_000),
            "num_val": (0, 100_000),
            "num_test": (0, 100_000),
            "num_twin_groups": (0, 100_000),
            "captions_per_video": (1, 8),
            "two_event_share": (0.0, 1.0),
            "near_twin_share": (0.0, 1.0),
            "groups_per_family": (1, 1000),
            "duplicate_share": (0.0, 1.0),
            "videos_per_scene": (2, 1_000_000),
            "distractor_share": (0.0, 1.0),
            "image_size": (32, 512),
            "num_frames": (16, 480),
            "fps": (1, 60),
            "crf": (0, 40),
            "gop": (1, 1000),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            wanted = int if isinstance(low, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted):
                kind = "whole number" if wanted is int else "number"
                raise ShapesError(f"WorldConfig.{name}={value!r} is not a {kind}; give one from {low} to {high}.")
            if not low <= value <= high:
                raise ShapesError(f"WorldConfig.{name}={value} is out of range; choose a value from {low} to {high}.")
        if self.image_size % 2:
            raise ShapesError(
                f"WorldConfig.image_size={self.image_size} is odd; H.264 with 4:2:0 chroma subsampling needs an "
                f"even size, such as {self.image_size + 1}."
            )
        if self.num_videos == 0:
            raise ShapesError(
                "WorldConfig asks for no video at all; raise num_train, num_val, num_test or num_twin_groups."
            )

    @property
    def num_videos(self) -> int:
        """Returns the number of videos in all splits together."""
        return self.num_train + self.num_val + self.num_test + 4 * self.num_twin_groups
