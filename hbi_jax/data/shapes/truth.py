"""Ground truth: the frames and boxes that each word of a video's first caption refers to."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
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
_DECIMALS = 4  # precision of box coordinates: below 1/100 pixel at 64 pixels


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The entities, events, visibility and boxes of one video.

    Attributes:
      video_id, split, group: Identify the video; `group` is None for videos without near-twins.
      caption: The first caption. It mentions everything and is the test query.
      words: The caption's words, without punctuation, each with the event that it refers to.
      entities: The entities of the events, in chronological order, then the distractor if there is one.
      actions: Each entity's action; None for the distractor.
      spans: First frame of each event and the frame after its last; (0, 0) for the distractor.
      visible: Whether each entity is visible in each rendered frame.
      boxes: Bounding box x0, y0, x1, y1 as fractions of the picture's side, also given while the entity is invisible.
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
        """Returns the events, in chronological order."""
        pairs = zip(self.entities, self.actions, strict=True)
        return tuple(Event(entity, action) for entity, action in pairs if action is not None)

    def word_frames(self) -> Bool[np.ndarray, "words f"]:
        """Returns a mask of the frames that each word refers to.

        A size, color or shape refers to every frame in which its entity is visible. A word of an action refers to every
        frame of the event, visible or not. Other words refer to no frame.
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
        """Returns the box that each word refers to at each frame; zeros if `word_frames` is False."""
        boxes = np.zeros((len(self.words), self.visible.shape[1], 4), self.boxes.dtype)
        for row, word in enumerate(self.words):
            if word.event is not None:
                boxes[row] = self.boxes[word.event]
        return boxes * self.word_frames()[..., None]


def scene_truth(scene: Scene, sentence: Sentence) -> GroundTruth:
    """Returns the ground truth of a scene and a sentence about its events."""
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
    """Returns a video's entry in `ground_truth.jsonl`, in the format of docs/shapes.md."""
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
    """Returns the ground truth of an entry; the inverse of `to_record`."""
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
    """Returns the ground truth of a generated world, keyed by video id.

    Raises:
      ShapesError: If the folder holds no ground truth, or a line is damaged.
    """
    path = Path(folder) / TRUTH_FILE
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ShapesError(
            f"cannot read {path}: {error.strerror}; make the world first: "
            f"python -m hbi_jax.data.shapes generate {shlex.quote(str(folder))}"
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


def number_scenes(truths: Mapping[str, GroundTruth]) -> dict[str, int]:
    """Returns a number for each video; videos that show the same events, which the same captions describe, share one.

    Args:
      truths: The ground truth of each video by its id.
    """
    numbers: dict[Events, int] = {}
    return {video_id: numbers.setdefault(truth.events, len(numbers)) for video_id, truth in truths.items()}


def _runs(flags: Bool[np.ndarray, " f"]) -> list[list[int]]:
    """Returns the spans [first, end) of consecutive True flags."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).tolist()
