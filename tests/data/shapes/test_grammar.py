import random
import re

import pytest

from hbi_jax.data import shapes
from hbi_jax.data.shapes import grammar
from hbi_jax.data.shapes.entities import ACTIONS, OPPOSITE, SHAPES, SIZES
from hbi_jax.data.shapes.plan import draw_entity
from hbi_jax.data.text import Tokenizer


def _event(color, shape, size, action):
    return shapes.Event(shapes.Entity(color, shape, size), action)


RED = _event("red", "square", "small", "slide right")
BLUE = _event("blue", "circle", "large", "spin")


def _random_events(rng):
    first = draw_entity(rng)
    second = draw_entity(rng, unlike=(first,))
    events = (shapes.Event(first, rng.choice(ACTIONS)), shapes.Event(second, rng.choice(ACTIONS)))
    return events[: rng.randint(1, 2)]


def test_tables_cover_the_world():
    assert set(grammar.VERBS) == set(ACTIONS) == set(OPPOSITE)
    assert set(grammar.SHAPE_WORDS) == set(SHAPES)
    assert set(grammar.SIZE_WORDS) == set(SIZES)
    assert all(OPPOSITE[action] != action for action in ACTIONS)


def test_no_phrase_has_two_meanings():
    for table in (grammar.VERBS, grammar.SHAPE_WORDS, grammar.SIZE_WORDS):
        phrases = [phrase for phrases in table.values() for phrase in phrases]
        assert len(phrases) == len(set(phrases))


def test_canonical_sentence():
    text = shapes.canonical_sentence((RED, BLUE)).text
    assert text == "a small red square slides right, then a large blue circle spins"
    assert shapes.canonical_sentence((BLUE,)).text == "a large blue circle spins"


@pytest.mark.parametrize(
    "text",
    [
        "a small red square slides right, then a large blue circle spins",
        "First a little red box moves right then a big blue disc rotates.",
        "a big blue circle turns around after a small red square glides right",
        "after a small red square slides right , a large blue circle spins",
        "before a large blue circle spins, a small red square slides right",
        "a small red square moves right before a large blue disc rotates",
    ],
)
def test_every_phrasing_gives_the_order_of_time(text):
    assert shapes.parse_caption(text) == (RED, BLUE)


def test_article_and_missing_size():
    sentence = grammar.draw_sentence((_event("orange", "star", "small", "grow"),), random.Random(1), sizes=True)
    assert "an " not in sentence.text
    (event,) = shapes.parse_caption("there is an orange star that grows")
    assert event == _event("orange", "star", None, "grow")
    assert event.agrees(_event("orange", "star", "small", "grow"))
    assert not event.agrees(_event("orange", "star", "small", "shrink"))
    assert not RED.agrees(_event("red", "square", "large", "slide right"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red square",
        "a pink square spins",
        "a red square spins, then",
        "a red square spins a blue circle spins",
        "then a red square spins",
    ],
)
def test_what_is_no_sentence_is_refused(text):
    with pytest.raises(shapes.ShapesError, match="not a sentence"):
        shapes.parse_caption(text)


def test_paraphrases_are_true_different_and_short():
    rng = random.Random(0)
    templates = set()
    for _ in range(300):
        events = _random_events(rng)
        first, *others = sentences = grammar.draw_paraphrases(events, rng, 8)
        assert len({sentence.text for sentence in sentences}) == 8
        assert shapes.parse_caption(first.text) == events
        for sentence in others:
            parsed = shapes.parse_caption(sentence.text)
            assert len(parsed) == len(events)
            assert all(a.agrees(b) for a, b in zip(parsed, events, strict=True))
        templates.add(re.sub(r"\b(an?)( [a-z]+){2,}", "X", first.text).split()[0])
        assert all(len(s.words) + s.text.count(",") + 2 <= 24 for s in sentences)
    assert {"X", "X,", "first", "after", "before", "there", "the"} & templates > {"first", "after", "before"}


def test_words_are_the_sentence_and_know_their_event():
    rng = random.Random(5)
    for _ in range(100):
        events = _random_events(rng)
        sentence = grammar.draw_sentence(events, rng, sizes=True)
        assert [word.text for word in sentence.words] == re.findall(r"[a-z]+", sentence.text)
        for number, event in enumerate(events):
            said = {role: [] for role in ("size", "color", "shape", "action")}
            for word in sentence.words:
                if word.event == number:
                    said[word.role].append(word.text)
            assert said["color"] == [event.entity.color]
            assert said["size"][0] in grammar.SIZE_WORDS[event.entity.size]
            assert said["shape"][0] in grammar.SHAPE_WORDS[event.entity.shape]
            assert " ".join(said["action"]) in grammar.VERBS[event.action]
        assert all((word.event is None) == (word.role == "") for word in sentence.words)


def test_the_longest_captions_fit_24_tokens():
    noun = "a little cyan triangle"  # cyan is two tokens, every other noun word is one
    verbs = [verb for phrases in grammar.VERBS.values() for verb in phrases]
    captions = [
        template.format(np1=noun, vp1=one, np2=noun, vp2=other)
        for template in grammar.TEMPLATES[2]
        for one in verbs
        for other in verbs
    ]
    assert Tokenizer(24).truncated(captions) == 0
    assert Tokenizer(12).truncated(captions) == len(captions)
