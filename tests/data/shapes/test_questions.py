import collections
import random

import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes import questions
from hbi_jax.data.shapes.scenes import Actor, Scene, stage_world

CONFIG = shapes.WorldConfig(num_train=900, num_val=0, num_test=300, num_twin_groups=0)


def _two_event_scene():
    red, blue = shapes.Entity("red", "square", "small"), shapes.Entity("blue", "circle", "large")
    green = shapes.Entity("green", "star", "small")
    events = (shapes.Event(red, "slide right"), shapes.Event(blue, "appear"))
    actors = (
        Actor(red, "slide right", (1, 12), (0.3, 0.2), travel=0.4),
        Actor(blue, "appear", (13, 24), (0.5, 0.8)),
        Actor(green, None, (0, 0), (0.1, 0.5)),
    )
    return Scene("video0", "test", 0, None, 24, 8, 0, events, actors)


@pytest.fixture(scope="module")
def asked():
    """Balanced questions of two splits, by split."""
    scenes = stage_world(CONFIG)
    found = {}
    for split in ("train", "test"):
        drawn = tuple(q for s in scenes if s.split == split for q in questions.ask_about(s, CONFIG))
        found[split] = questions.balance(drawn, random.Random(split))
    return found


def test_the_answers_to_a_scene_are_right():
    known = {
        "what does the red square do?": "slide right",
        "what does the blue circle do?": "appear",
        "what does the green star do?": "nothing",
        "how many shapes are there?": "three",
        "how many shapes do something?": "two",
        "how many small shapes are there?": "two",
        "how many large shapes are there?": "one",
        "where does the red square slide to, left or right?": "right",
        "where does the red square slide to, top or bottom?": "top",
        "where does the blue circle appear, top or bottom?": "bottom",
        "where is the green star, left or right?": "left",
        "what happens first?": "slide right",
        "what happens last?": "appear",
        "which shape acts first?": "square",
        "which shape acts last?": "circle",
        "what color is the shape that acts first?": "red",
        "what color is the shape that acts last?": "blue",
        "does the red square act before the blue circle?": "yes",
        "does the blue circle act before the red square?": "no",
    }
    which = {"slides right": "right", "appears": "appears"}
    found, scene = set(), _two_event_scene()
    for seed in range(200):
        for question in questions.ask_about(scene, shapes.WorldConfig(seed=seed)):
            if question.question in known:
                assert question.answer == known[question.question]
                found.add(question.question)
            else:
                assert question.answer_type == "which"
                red = which["slides right"] in question.question
                asks_color = question.question.startswith("what color is the shape that")
                assert (
                    question.answer
                    == {
                        (True, True): "red",
                        (True, False): "square",
                        (False, True): "blue",
                        (False, False): "circle",
                    }[red, asks_color]
                )
    assert found == set(known)  # in the middle of an axis (the circle's x) nothing is asked


def test_every_video_is_asked_and_every_kind_occurs(asked):
    kinds = collections.Counter(question.answer_type for question in asked["train"])
    assert set(kinds) == {"what", "which", "how many", "where", "order"}
    assert min(kinds.values()) > 400
    assert len({question.video_id for question in asked["train"]}) == 900
    per_video = collections.Counter(question.video_id for question in asked["test"])
    assert 3 < sum(per_video.values()) / 300 < 7


def test_no_two_questions_of_a_video_are_the_same(asked):
    pairs = [(q.video_id, q.question) for q in asked["train"]]
    assert len(set(pairs)) == len(pairs)


def test_the_most_frequent_answer_is_a_bad_guess(asked):
    answers = collections.defaultdict(collections.Counter)
    for question in asked["train"]:
        answers[question.template][question.answer] += 1
    for template, counts in answers.items():
        assert max(counts.values()) / counts.total() < 1.6 / len(counts), template


def test_the_question_alone_does_not_tell(asked):
    """Guessing, for each test question, the answer that the same question got most often in training."""
    train, templates = collections.defaultdict(collections.Counter), collections.defaultdict(set)
    for q in asked["train"]:
        train[q.question][q.answer] += 1
        templates[q.template].add(q.answer)
    right, chance = collections.Counter(), collections.Counter()
    for q in asked["test"]:
        if train[q.question]:
            right[q.answer_type] += train[q.question].most_common(1)[0][0] == q.answer
            chance[q.answer_type] += 1 / len(templates[q.template])
    for kind in chance:
        assert right[kind] < 1.45 * chance[kind], (kind, right[kind], chance[kind])


def test_balance_drops_only_what_is_too_frequent():
    def some(template, answer, count):
        return [questions.Question(f"v{answer}{n}", "?", answer, "what", template) for n in range(count)]

    drawn = tuple(some("a", "yes", 90) + some("a", "no", 10) + some("b", "x", 7))
    kept = questions.balance(drawn, random.Random(0))
    counts = collections.Counter((question.template, question.answer) for question in kept)
    assert counts == {("a", "yes"): 63, ("a", "no"): 10, ("b", "x"): 7}
    assert [q for q in drawn if q in kept] == list(kept)
