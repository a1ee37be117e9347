import dataclasses
import json

import numpy as np
import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes import truth as truth_file
from hbi_jax.data.shapes.encode import decode_video
from hbi_jax.data.shapes.entities import COLORS
from hbi_jax.data.shapes.grammar import canonical_sentence
from hbi_jax.data.shapes.manifest import read_config
from hbi_jax.data.shapes.scenes import Actor, Scene


@pytest.fixture(scope="module")
def truths(tiny_world):
    return shapes.load_ground_truth(tiny_world)


def _has_color(image, box, color):
    """Whether some pixel inside the box has the colour, roughly, as compression bends it."""
    x0, y0, x1, y1 = box * image.shape[0]
    inside = image[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))].astype(int)
    return bool((np.abs(inside - np.array(COLORS[color])).max(-1) < 75).sum() >= 3)


def test_words_point_at_their_color_in_the_video_files(truths, tiny_world):
    seen = unseen = 0
    for video_id, truth in truths.items():
        frames = decode_video(tiny_world / "videos" / f"{video_id}.mp4")
        for word, on, boxes in zip(truth.words, truth.word_frames(), truth.word_boxes(), strict=True):
            if word.role != "shape":
                continue
            color = truth.entities[word.event].color
            assert [_has_color(f, b, color) for f, b in zip(frames[on], boxes[on], strict=True)] == [True] * on.sum()
            where = truth.boxes[word.event]
            for number in np.flatnonzero(~on):
                assert not _has_color(frames[number], where[number], color)
            seen, unseen = seen + on.sum(), unseen + (~on).sum()
    assert seen > 300
    assert unseen > 50


def test_words_speak_of_frames_and_boxes():
    events = (
        shapes.Event(shapes.Entity("red", "circle", "small"), "vanish"),
        shapes.Event(shapes.Entity("blue", "square", "large"), "slide right"),
    )
    actors = (
        Actor(events[0].entity, "vanish", (2, 12), (0.2, 0.2), moment=0.5),
        Actor(events[1].entity, "slide right", (13, 23), (0.3, 0.7), travel=0.4),
    )
    scene = Scene("video7", "test", 7, None, 24, 8, 0, events, actors)
    truth = truth_file.scene_truth(scene, canonical_sentence(events))
    assert truth.events == events
    rows = [word.text for word in truth.words]
    assert " ".join(rows) == "a small red circle vanishes then a large blue square slides right"
    frames, boxes = truth.word_frames(), truth.word_boxes()
    spans = {"a": [], "then": [], "circle": range(7), "vanishes": range(2, 12), "square": range(24)}
    for word, span in {**spans, "red": range(7), "slides": range(13, 23), "right": range(13, 23)}.items():
        assert np.flatnonzero(frames[rows.index(word)]).tolist() == list(span), word
    assert not boxes[rows.index("then")].any()
    assert not boxes[rows.index("circle"), 7:].any()
    assert boxes[rows.index("circle"), 0] == pytest.approx([0.105, 0.105, 0.295, 0.295])
    moved = boxes[rows.index("square"), -1] - boxes[rows.index("square"), 0]
    assert moved == pytest.approx([0.4, 0, 0.4, 0])


def test_records_hold_everything(truths):
    for truth in truths.values():
        record = json.loads(json.dumps(truth_file.to_record(truth)))
        again = truth_file.from_record(record)
        for name in ("video_id", "split", "group", "caption", "words", "entities", "actions", "spans"):
            assert getattr(again, name) == getattr(truth, name)
        assert np.array_equal(again.visible, truth.visible)
        assert np.array_equal(again.boxes, truth.boxes)


def test_captions_name_the_events(truths):
    assert len(truths) == 24
    for truth in truths.values():
        assert shapes.parse_caption(truth.caption) == truth.events


def test_no_world_and_damaged_lines(tmp_path):
    """The remedy can be pasted, whatever the folder is called."""
    spaced = tmp_path / "my world"
    for read in (shapes.load_ground_truth, read_config):
        with pytest.raises(shapes.ShapesError, match=f"generate '{spaced}'$"):
            read(spaced)
    with pytest.raises(shapes.ShapesError, match="make the world first"):
        shapes.load_ground_truth(tmp_path)
    (tmp_path / "ground_truth.jsonl").write_text('{"video_id": "video0"}\n')
    with pytest.raises(shapes.ShapesError, match="line 1 is damaged"):
        shapes.load_ground_truth(tmp_path)


def test_videos_of_the_same_events_share_a_number(truths):
    """Whatever else they show."""
    one, other, *_ = truths
    changed = dataclasses.replace(truths[one], video_id="again", boxes=truths[one].boxes + 1)
    numbers = shapes.number_scenes({**truths, "again": changed})
    assert numbers["again"] == numbers[one] != numbers[other]
    events = [truth.events for truth in truths.values()]
    assert len(set(numbers.values())) == len(set(events))
