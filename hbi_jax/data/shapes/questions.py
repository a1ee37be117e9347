"""Generates questions of five types about scenes, in the layout of MSRVTT-QA.

| answer_type | example | answers |
|---|---|---|
| what | what does the red square do? | an action, or "nothing" |
| which | which shape spins? what color is the shape that spins? | a shape, a color |
| how many | how many small shapes are there? | zero to three |
| where | where does the red square slide to, left or right? | left, right, top, bottom |
| order | what happens last? does the red square act before the blue circle? | action, shape, color, yes, no |

As in captions, small and large refer to the size at the start.
"""

import collections
import dataclasses
import math
import random

from hbi_jax.data.shapes.config import WorldConfig
from hbi_jax.data.shapes.entities import SIZES, Entity
from hbi_jax.data.shapes.grammar import VERBS
from hbi_jax.data.shapes.scenes import Actor, Scene

_NUMBERS = ("zero", "one", "two", "three")
_SIDES = (("left", "right"), ("top", "bottom"))
_NO_SIDE = 0.06  # a position this close to the middle is ambiguous
_NOTHING_SHARE = 0.2  # the share of scenes with a distractor whose "what" question is about it
# An answer may be at most this many times as frequent as if the template's answers were uniform.
_MAX_SKEW = 1.25


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its answer and its template. Answers are balanced within each template."""

    video_id: str
    question: str
    answer: str
    answer_type: str
    template: str

    def record(self) -> dict[str, str]:
        """Returns the question as an entry of `<split>.jsonl`."""
        return {
            "answer": self.answer,
            "question": self.question,
            "video_id": self.video_id,
            "answer_type": self.answer_type,
        }


def ask_about(scene: Scene, config: WorldConfig) -> tuple[Question, ...]:
    """Returns random questions about a video: one of each applicable type, two of type "order", all distinct."""
    rng = scene.rng("questions", config)
    drawn = [_what(scene, rng)]
    if which := _which(scene, rng):
        drawn.append([rng.choice(which)])
    drawn.append([rng.choice(_how_many(scene, rng))])
    if where := _where(scene):
        drawn.append([rng.choice(where)])
    if order := _order(scene, rng):
        drawn.append(rng.sample(order, 2))
    return tuple(question for questions in drawn for question in questions)


def balance(questions: tuple[Question, ...], rng: random.Random) -> tuple[Question, ...]:
    """Drops random questions so that no answer of a template is much more frequent than the others.

    Each answer keeps at most 1.25 times its uniform share of the template's questions (counted before any are dropped).
    """
    by_template = collections.defaultdict(lambda: collections.defaultdict(list))
    for number, question in enumerate(questions):
        by_template[question.template][question.answer].append(number)
    kept = []
    for answers in by_template.values():
        limit = math.ceil(_MAX_SKEW * sum(map(len, answers.values())) / len(answers))
        for numbers in answers.values():
            kept += rng.sample(numbers, min(limit, len(numbers)))
    return tuple(questions[number] for number in sorted(kept))


def _noun(entity: Entity) -> str:
    return f"the {entity.color} {entity.shape}"


def _what(scene: Scene, rng: random.Random) -> list[Question]:
    """Returns a "what" question. Few are about distractors, so that "nothing" is not the best guess."""
    acting = [actor for actor in scene.actors if actor.action]
    still = [actor for actor in scene.actors if not actor.action]
    actor = still[0] if still and rng.random() < _NOTHING_SHARE else rng.choice(acting)
    question = f"what does {_noun(actor.entity)} do?"
    return [Question(scene.video_id, question, actor.action or "nothing", "what", "what does")]


def _which(scene: Scene, rng: random.Random) -> list[Question]:
    """Returns "which" questions about entities whose action is unique in the scene."""
    questions = []
    for event in scene.events:
        if sum(other.action == event.action for other in scene.events) == 1:
            verb = rng.choice(VERBS[event.action])
            for template, answer in (
                ("which shape {}?", event.entity.shape),
                ("what color is the shape that {}?", event.entity.color),
            ):
                questions.append(Question(scene.video_id, template.format(verb), answer, "which", template))
    return questions


def _how_many(scene: Scene, rng: random.Random) -> list[Question]:
    size = rng.choice(SIZES)
    counts = {
        "how many shapes are there?": len(scene.actors),
        "how many shapes do something?": len(scene.events),
        f"how many {size} shapes are there?": sum(a.entity.size == size for a in scene.actors),
    }
    return [
        Question(scene.video_id, question, _NUMBERS[count], "how many", question) for question, count in counts.items()
    ]


def _where(scene: Scene) -> list[Question]:
    """Returns "where" questions about positions, one per axis, omitting positions near the middle."""
    questions = []
    for actor in scene.actors:
        for when, place in _places(actor, scene):
            for axis, (low, high) in enumerate(_SIDES):
                if abs(place[axis] - 0.5) < _NO_SIDE:
                    continue
                answer = low if place[axis] < 0.5 else high
                question = f"{when}, {low} or {high}?"
                template = f"where, {low} or {high}?"
                questions.append(Question(scene.video_id, question, answer, "where", template))
    return questions


def _places(actor: Actor, scene: Scene) -> list[tuple[str, tuple[float, float]]]:
    noun, first = _noun(actor.entity), actor.start
    last = actor.pose(scene.num_frames - 1, scene.fps)
    match actor.action:
        case "appear":
            return [(f"where does {noun} appear", first)]
        case "vanish":
            return [(f"where does {noun} vanish", first)]
        case "slide left" | "slide right" | "slide up" | "slide down":
            return [(f"where does {noun} slide to", (last.x, last.y))]
        case _:
            return [(f"where is {noun}", first)]


def _order(scene: Scene, rng: random.Random) -> list[Question]:
    if len(scene.events) < 2:
        return []
    first, last = scene.events
    asked = [
        ("what happens first?", first.action),
        ("what happens last?", last.action),
    ]
    if first.entity.shape != last.entity.shape:
        asked.append(("which shape acts first?", first.entity.shape))
        asked.append(("which shape acts last?", last.entity.shape))
    if first.entity.color != last.entity.color:
        asked.append(("what color is the shape that acts first?", first.entity.color))
        asked.append(("what color is the shape that acts last?", last.entity.color))
    one, other = rng.sample((first, last), 2)
    questions = [Question(scene.video_id, text, answer, "order", text) for text, answer in asked]
    before = f"does {_noun(one.entity)} act before {_noun(other.entity)}?"
    answer = "yes" if one is first else "no"
    return [*questions, Question(scene.video_id, before, answer, "order", "does it act before?")]
