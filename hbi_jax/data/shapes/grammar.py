"""Sentences about events, in several paraphrases, and the way back from a sentence to its events.

One table of templates and one of synonyms serve both directions, so that whatever the grammar can say, it can
read. A caption is at most 24 CLIP tokens long, start and end included.
"""

import dataclasses
import itertools
import random
import re

from hbi_jax.data.shapes.config import ShapesError
from hbi_jax.data.shapes.entities import COLORS, Entity, Event, Events

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
}
VERBS = {
    "slide left": ("slides left", "moves left", "glides left"),
    "slide right": ("slides right", "moves right", "glides right"),
    "slide up": ("slides up", "moves up", "glides upwards"),
    "slide down": ("slides down", "moves down", "glides downwards"),
    "grow": ("grows", "gets bigger", "expands"),
    "shrink": ("shrinks", "gets smaller", "contracts"),
    "spin": ("spins", "rotates", "turns around"),
    "bounce": ("bounces", "hops", "jumps up and down"),
    "blink": ("blinks", "flashes", "turns on and off"),
    "vanish": ("vanishes", "disappears", "goes away"),
    "appear": ("appears", "shows up", "comes into view"),
}
# np1 and vp1 are the noun and verb phrase of the event that happens first, wherever they stand.
TEMPLATES = {
    1: ("{np1} {vp1}", "there is {np1} that {vp1}", "the video shows {np1} that {vp1}"),
    2: (
        "{np1} {vp1}, then {np2} {vp2}",
        "{np1} {vp1} and then {np2} {vp2}",
        "first {np1} {vp1}, then {np2} {vp2}",
        "{np1} {vp1} before {np2} {vp2}",
        "after {np1} {vp1}, {np2} {vp2}",
        "{np2} {vp2} after {np1} {vp1}",
        "before {np2} {vp2}, {np1} {vp1}",
    ),
}


@dataclasses.dataclass(frozen=True)
class Word:
    """A word of a sentence and what it speaks of.

    Attributes:
      text: Lower case, without punctuation.
      role: "size", "color", "shape", "action", or "" for words that point at nothing ("a", "then").
      event: Number of the event, in order of time, that it speaks of; None where the role is "".
    """

    text: str
    role: str = ""
    event: int | None = None


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A caption and its words, one for each run of letters in `text`."""

    text: str
    words: tuple[Word, ...]


def canonical_sentence(events: Events) -> Sentence:
    """The plainest sentence that says everything: first template, first synonyms, sizes included."""
    return _fill(TEMPLATES[len(events)][0], events, lambda options: options[0], (True,) * len(events))


def draw_sentence(events: Events, rng: random.Random, *, sizes: bool) -> Sentence:
    """Draws a paraphrase.

    Args:
      events: One or two events, in order of time.
      rng: Chooses template and synonyms.
      sizes: True to mention every size; False leaves each out with an even chance.
    """
    template = rng.choice(TEMPLATES[len(events)])
    return _fill(template, events, rng.choice, tuple(sizes or rng.random() < 0.5 for _ in events))


def draw_paraphrases(events: Events, rng: random.Random, count: int) -> tuple[Sentence, ...]:
    """Draws `count` different sentences; the first mentions every size, the others may leave sizes out."""
    sentences = {}
    while len(sentences) < count:  # one event of a star has 27 sentences: this ends soon
        sentence = draw_sentence(events, rng, sizes=not sentences)
        sentences.setdefault(sentence.text, sentence)
    return tuple(sentences.values())


def parse_caption(text: str) -> Events:
    """Reads a sentence of the grammar back into its events, in the order in which they happen.

    Case, commas, a final full stop and extra blanks do not matter, so a generated caption can be scored.

    Args:
      text: A caption, for instance "a blue circle spins after a small red box moves left".

    Returns:
      One or two events; an entity whose size is left out has `size=None`.

    Raises:
      ShapesError: The sentence is not one of the grammar's.
    """
    plain = " ".join(text.lower().replace(",", " ").rstrip(" .").split())
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(plain):
            count = 1 + ("color2" in pattern.groupindex)
            return tuple(_read_event(match, number) for number in range(1, count + 1))
    raise ShapesError(
        f"caption={text!r} is not a sentence of the moving shapes' grammar; it speaks like "
        "'a small red square slides right, then a blue circle spins'."
    )


def _read_event(match: re.Match[str], number: int) -> Event:
    size, color, shape, verb = (match[f"{part}{number}"] for part in ("size", "color", "shape", "verb"))
    entity = Entity(color, _meaning(SHAPE_WORDS, shape), size and _meaning(SIZE_WORDS, size))
    return Event(entity, _meaning(VERBS, verb))


def _meaning(table: dict[str, tuple[str, ...]], phrase: str) -> str:
    return next(key for key, phrases in table.items() if phrase in phrases)


def _fill(template: str, events: Events, choose, sizes: tuple[bool, ...]) -> Sentence:
    words, text = [], []
    for piece in template.split():
        slot = piece.rstrip(",")
        if slot[:3] in ("{np", "{vp"):
            index = int(slot[3]) - 1
            phrase = (
                _noun_phrase(events[index].entity, index, choose, sizes[index])
                if slot[1] == "n"
                else [Word(w, "action", index) for w in choose(VERBS[events[index].action]).split()]
            )
        else:
            phrase = [Word(slot)]
        words += phrase
        text.append(" ".join(word.text for word in phrase) + piece[len(slot) :])
    return Sentence(" ".join(text), tuple(words))


def _noun_phrase(entity: Entity, index: int, choose, with_size: bool) -> list[Word]:
    words = [
        Word(entity.color, "color", index),
        Word(choose(SHAPE_WORDS[entity.shape]), "shape", index),
    ]
    if with_size:
        words.insert(0, Word(choose(SIZE_WORDS[entity.size]), "size", index))
    return [Word("an" if words[0].text[0] in "aeiou" else "a"), *words]


def _compile(template: str) -> re.Pattern[str]:
    def either(phrases) -> str:
        return "|".join(sorted(phrases, key=len, reverse=True))

    size, shape, verb = (either(itertools.chain(*table.values())) for table in (SIZE_WORDS, SHAPE_WORDS, VERBS))
    pattern = template.replace(",", "")
    for number in (1, 2):
        noun = f"an? (?:(?P<size{number}>{size}) )?(?P<color{number}>{either(COLORS)}) (?P<shape{number}>{shape})"
        pattern = pattern.replace(f"{{np{number}}}", noun)
        pattern = pattern.replace(f"{{vp{number}}}", f"(?P<verb{number}>{verb})")
    return re.compile(pattern)


_PATTERNS = tuple(_compile(template) for templates in TEMPLATES.values() for template in templates)
