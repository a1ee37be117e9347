import random

import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes.grammar import draw_paraphrases
from hbi_jax.data.shapes.judge import Judgement, judge

RED = shapes.Event(shapes.Entity("red", "square", "small"), "slide right")
BLUE = shapes.Event(shapes.Entity("blue", "circle", "large"), "spin")
HAPPENS = {"one": (RED,), "two": (RED, BLUE)}


@pytest.mark.parametrize(
    ("video", "caption", "first", "every"),
    [
        ("two", "a red box moves right, then a big blue disc rotates", True, True),
        ("two", "a blue circle spins after a red square slides right.", True, True),
        ("two", "a red square slides right", True, False),
        ("two", "a red square slides right and then a blue circle blinks", True, False),
        ("two", "a blue circle spins, then a red square slides right", False, False),
        ("one", "a red square slides right, then a blue circle spins", True, False),
        ("one", "a large red square slides right", False, False),
        ("one", "a red square slides left", False, False),
        ("one", "a red circle slides right", False, False),
    ],
)
def test_a_caption_is_right_if_nothing_of_it_is_wrong(video, caption, first, every):
    assert judge({video: caption}, HAPPENS) == Judgement(100.0 * first, 100.0 * every, 100.0)


@pytest.mark.parametrize("caption", ["", "a red square slides right then a", "a red red square slides right", "red"])
def test_what_cannot_be_read_is_wrong(caption):
    captions = {"one": caption, "two": "a red square slides right"}
    assert judge(captions, HAPPENS) == Judgement(50.0, 0.0, 50.0)


def test_every_paraphrase_of_what_happens_is_right():
    rng = random.Random(3)
    for events in HAPPENS.values():
        for sentence in draw_paraphrases(events, rng, 20):
            assert judge({"video": sentence.text}, {"video": events}) == Judgement(100.0, 100.0, 100.0)


def test_no_caption_and_no_truth_are_said():
    with pytest.raises(ValueError, match="0 captions"):
        judge({}, HAPPENS)
    with pytest.raises(shapes.ShapesError, match="no ground truth of video 'three'"):
        judge({"one": "", "three": ""}, HAPPENS)
