"""The settings of an index, and the error of this package."""

import dataclasses
from typing import Literal

from hbi_jax.fields import field, require

EngineName = Literal["flat", "lance"]
Cut = Literal["windows", "shots"]


class SearchError(ValueError):
    """An error in making, opening or searching an index. The message names what was got, what is wanted, the remedy."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How videos are cut into clips and stored. Fixed when an index is made, and stored in it."""

    clip_seconds: float = field(
        0.0,
        "Length of a clip in seconds. 0: as long as the model's frames last, num_frames / frames_per_second. A video "
        "of up to one and a half clips is one clip.",
        at_least=0,
    )
    stride_seconds: float = field(
        0.0, "Distance of the beginnings of two clips in seconds. 0: half of clip_seconds.", at_least=0
    )
    cut: Cut = field(
        "windows",
        "Where clips begin. windows: at every stride. shots: at shot boundaries, and at every stride within long shots "
        "(needs PySceneDetect: pip install scenedetect opencv-python-headless).",
    )
    engine: EngineName = field(
        "flat",
        "What finds the candidates. flat: an exact scan of memory-mapped files. lance: a LanceDB table with an "
        "approximate index of one vector a clip, for 100,000 clips and more (needs the extra: "
        "pip install 'hbi_jax[search]').",
    )
    num_words: int = field(
        0, "Tokens per text, start and end included. 0: as in training; 32 for weights without a run.", at_least=0
    )
    num_frames: int = field(0, "Frames per clip. 0: as in training; 12 for weights without a run.", at_least=0)
    frames_per_second: float = field(
        0.0, "Density of the grid of frames. 0: as in training; 1 for weights without a run.", at_least=0
    )

    def validate(self, path: str) -> None:
        """Checks that clips leave no gap."""
        length, stride = self.clip_seconds, self.stride_seconds
        good = not (length and stride) or stride <= length
        wanted = f"at most {path}.clip_seconds={length}, so that clips leave no gap"
        require(good, f"{path}.stride_seconds", stride, wanted, "lower it")
