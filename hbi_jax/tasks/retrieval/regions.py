"""Ground truth of pointing in space: one frame of each event, and the box of the event's object in it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hbi_jax.data.shapes import GroundTruth
from hbi_jax.tasks.retrieval.pointing import WordTruth
from hbi_jax.tasks.retrieval.truths import Sample


class Region(NamedTuple):
    """The object of an event in a frame.

    Attributes:
      words: The words of the video's caption, without punctuation.
      roles: What each word tells of the event, such as "color"; empty for words that do not refer to it.
      frame: The place of the frame among the sampled ones.
      box: x0, y0, x1, y1 as fractions of the frame's side, from the top left corner.
    """

    words: Sequence[str]
    roles: Sequence[str]
    frame: int
    box: Float[np.ndarray, "4"]

    def of_patches(self, num_patches: int) -> WordTruth:
        """Returns the patches that each word refers to: those that have their centre in the box.

        Args:
          num_patches: The number of patches of the frame, which lie row by row in a square.
        """
        refers, inside = [bool(role) for role in self.roles], patches_in(self.box, math.isqrt(num_patches))
        return WordTruth(self.words, self.roles, np.logical_and.outer(refers, inside))


# The regions of captions, by video id and caption.
Regions = Mapping[tuple[str, str], Sequence[Region]]


def patches_in(box: Float[np.ndarray, "4"], side: int) -> Bool[np.ndarray, " n"]:
    """Returns whether each of `side` * `side` patches, row by row, has its centre in a box.

    Args:
      box: x0, y0, x1, y1 as fractions of the frame's side.
      side: The number of patches along a side of the frame.
    """
    x0, y0, x1, y1 = box
    centre = (np.arange(side) + 0.5) / side
    return np.logical_and.outer((y0 <= centre) & (centre <= y1), (x0 <= centre) & (centre <= x1)).ravel()


def of_world(world: Mapping[str, GroundTruth], sample: Sample) -> Regions:
    """Returns a region for each event that a first caption of the embedded world tells.

    Its frame is the middle one of the sampled frames in which the event happens and its object is visible. An event
    without such a frame has no region. The world's videos are square, so that no box is cropped.

    Args:
      world: The ground truth of its videos.
      sample: How frames are sampled.
    """
    out = {}
    for video_id, truth in world.items():
        sampled, regions = sample(truth.visible.shape[1]), []
        for event in range(len(truth.events)):
            first, end = truth.spans[event]
            shown = np.flatnonzero((first <= sampled) & (sampled < end) & truth.visible[event, sampled])
            if len(shown):
                frame = int(shown[len(shown) // 2])
                roles = [word.role if word.event == event else "" for word in truth.words]
                box = truth.boxes[event, sampled[frame]]
                regions.append(Region([word.text for word in truth.words], roles, frame, box))
        out[video_id, truth.caption] = regions
    return out
