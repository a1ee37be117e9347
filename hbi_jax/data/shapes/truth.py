"""Ground truth: for every word of a video's first caption, the frames and the box that it speaks of."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from hbi_jax.data.shapes.config import ShapesError
from hbi_jax.data.shapes.entities import Entity, Event, Events
from hbi_jax.data.shapes.grammar import Sentence, Word
from hbi_jax.data.shapes.renderer import scene_boxes
from hbi_jax.data.shapes.scenes import Scene

TRUTH_FILE = "ground_truth.jsonl"
_DECIMALS = 4  # of a box coordinate: 1/100 of a pixel at 64 pixels


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What is where, and when, in one video.

    Attributes:
      video_id, split, group: Which video; `group` is None outside the groups of near-twins.
      caption: The first caption, which mentions everything: the test sentence.
      words: Its words, without punctuation, with what each speaks of.
      entities: Who is there: the entities of the events in their order, then a distractor if there is one.
      actions: What each does; None for the distractor.
      spans: First frame and frame after the last of each event, (0, 0) for the distractor.
      visible: Whether an entity is seen in a rendered frame.
      boxes: Smallest box x0, y0, x1, y1 in shares of the picture's side; where it would be while unseen.
    """

    video_id: str
    split: str
    group: int | None
    caption: str
    words: tuple[Word, ...]
    entities: tuple[Entity, ...]
    actions: tuple[str | None, ...]
    spans: tuple[tuple[int, int], ...]
    visible: Bool[np.ndarray, "actors f"]
    boxes: Float[np.ndarray, "actors f 4"]

    @property
    def events(self) -> Events:
        """What happens, in order."""
        pairs = zip(self.entities, self.actions, strict=True)
        return tuple(Event(entity, action) for entity, action in pairs if action is not None)

    def word_frames(self) -> Bool[np.ndarray, "words f"]:
        """The frames that each word speaks of.

        A size, color or shape: every frame in which its entity is seen. A word of an action: every frame of
        the event, seen or not. Any other word: none.
        """
        frames = np.zeros((len(self.words), self.visible.shape[1]), bool)
        for row, word in enumerate(self.words):
            if word.event is None:
                continue
            if word.role == "action":
                frames[row, slice(*self.spans[word.event])] = True
            else:
                frames[row] = self.visible[word.event]
        return frames

    def word_boxes(self) -> Float[np.ndarray, "words f 4"]:
        """The box that each word speaks of at each frame; zero wherever `word_frames` is False."""
        boxes = np.zeros((len(self.words), self.visible.shape[1], 4), self.boxes.dtype)
        for row, word in enumerate(self.words):
            if word.event is not None:
                boxes[row] = self.boxes[word.event]
        return boxes * self.word_frames()[..., None]


def scene_truth(scene: Scene, sentence: Sentence) -> GroundTruth:
    """The ground truth of a scene for a sentence about its events."""
    frames = range(scene.num_frames)
    return GroundTruth(
        video_id=scene.video_id,
        split=scene.split,
        group=scene.group,
        caption=sentence.text,
        words=sentence.words,
        entities=tuple(actor.entity for actor in scene.actors),
        actions=tuple(actor.action for actor in scene.actors),
        spans=tuple(actor.span for actor in scene.actors),
        visible=np.array([[actor.pose(f, scene.fps).visible for f in frames] for actor in scene.actors]),
        boxes=scene_boxes(scene).round(_DECIMALS),
    )


def to_record(truth: GroundTruth) -> dict[str, Any]:
    """The line of `ground_truth.jsonl` for a video (docs/shapes.md)."""
    actors = [
        {
            **dataclasses.asdict(entity),
            "action": action,
            "span": list(span),
            "visible": _runs(visible),
            "boxes": [
                [frame, *box]
                for frame, box in enumerate(boxes.tolist())
                if frame == 0 or box != boxes[frame - 1].tolist()
            ],
        }
        for entity, action, span, visible, boxes in zip(
            truth.entities, truth.actions, truth.spans, truth.visible, truth.boxes, strict=True
        )
    ]
    return {
        "video_id": truth.video_id,
        "split": truth.split,
        "group": truth.group,
        "num_frames": truth.visible.shape[1],
        "caption": truth.caption,
        "words": [[word.text, word.role, word.event] for word in truth.words],
        "actors": actors,
    }


def from_record(record: dict[str, Any]) -> GroundTruth:
    """The way back from `to_record`."""
    actors, num_frames = record["actors"], record["num_frames"]
    visible = np.zeros((len(actors), num_frames), bool)
    boxes = np.zeros((len(actors), num_frames, 4))
    for row, actor in enumerate(actors):
        for first, end in actor["visible"]:
            visible[row, first:end] = True
        for frame, *box in actor["boxes"]:
            boxes[row, frame:] = box
    return GroundTruth(
        video_id=record["video_id"],
        split=record["split"],
        group=record["group"],
        caption=record["caption"],
        words=tuple(Word(*word) for word in record["words"]),
        entities=tuple(Entity(actor["color"], actor["shape"], actor["size"]) for actor in actors),
        actions=tuple(actor["action"] for actor in actors),
        spans=tuple(tuple(actor["span"]) for actor in actors),
        visible=visible,
        boxes=boxes,
    )


def load_ground_truth(folder: str | Path) -> dict[str, GroundTruth]:
    """Reads the ground truth of a generated world, keyed by video id.

    Raises:
      ShapesError: The folder holds no ground truth, or a line of it cannot be read.
    """
    path = Path(folder) / TRUTH_FILE
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ShapesError(
            f"cannot read {path}: {error.strerror}; make the world first: "
            f"python -m hbi_jax.data.shapes generate {folder}"
        ) from error
    truths = {}
    for number, line in enumerate(lines, start=1):
        try:
            truth = from_record(json.loads(line))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ShapesError(
                f"{path} line {number} is damaged ({error!r}); delete the file and generate again."
            ) from error
        truths[truth.video_id] = truth
    return truths


def _runs(flags: Bool[np.ndarray, " f"]) -> list[list[int]]:
    """Spans [first, end) of the True stretches."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).tolist()
