"""Questions about videos with the answers of a model, right and wrong, below the frames."""

import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

# Inches.
WIDTH, LINE, GAP, CHARACTER = 9.6, 0.24, 0.2, 0.088
RIGHT, WRONG = "#00695c", "#b71c1c"


class Example(NamedTuple):
    """A question and how it was answered.

    Attributes:
      frames: What the model saw, in order.
      question: As annotated.
      answer: The right one.
      guesses: The model's likeliest answers, the likeliest first.
      probabilities: Theirs.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    question: str
    answer: str
    guesses: Sequence[str]
    probabilities: Float[np.ndarray, " k"]

    @property
    def is_right(self) -> bool:
        """Whether the likeliest answer is the right one."""
        return self.guesses[0] == self.answer


def answers_figure(examples: Sequence[Example]) -> Figure:
    """Each example's question above its frames and the answers below them: green if right, red if wrong.

    Args:
      examples: In the order of appearance.

    Raises:
      ValueError: There is no example.
    """
    if not examples:
        raise ValueError("there are 0 examples, wanted at least 1; answer some questions before drawing them.")
    questions = [textwrap.wrap(example.question, int(WIDTH / CHARACTER)) for example in examples]
    strips = [_side_by_side(example.frames) for example in examples]
    # Square frames side by side fill the width, but are not blown up where they are few.
    heights = [min(1.3, WIDTH * strip.shape[0] / strip.shape[1]) for strip in strips]
    total = sum(heights) + sum(LINE * (len(lines) + 1) + GAP for lines in questions) + GAP
    figure = Figure(figsize=(WIDTH + 2 * GAP, total), dpi=110, facecolor="white")
    y = total - GAP
    for example, lines, strip, height in zip(examples, questions, strips, heights, strict=True):
        # What is asked may hold dollar signs; they are no mathematics.
        text = {"x": GAP / figure.get_figwidth(), "va": "top", "parse_math": False}
        figure.text(y=y / total, s="\n".join(lines), fontsize=10, weight="bold", **text)
        y -= LINE * len(lines) + height
        width = height * strip.shape[1] / strip.shape[0]
        axes = figure.add_axes(
            (GAP / figure.get_figwidth(), y / total, width / figure.get_figwidth(), height / total), label="frames"
        )
        axes.imshow(strip, aspect="auto")
        axes.set_axis_off()
        guesses = zip(example.guesses, example.probabilities, strict=True)
        said = ", ".join(f"{guess} ({100 * probability:.0f} %)" for guess, probability in guesses)
        verdict = "✓ given: " if example.is_right else f"✗ answer: {example.answer}; given: "
        figure.text(
            y=y / total - 0.04 / total,
            s=textwrap.shorten(verdict + said, int(WIDTH / CHARACTER), placeholder=" ..."),
            fontsize=10,
            color=RIGHT if example.is_right else WRONG,
            **text,
        )
        y -= LINE + GAP
    return figure


def _side_by_side(frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "h w2 3"]:
    """The frames in a row, with a white gap after each but the last."""
    gap = max(1, frames.shape[2] // 24)
    apart = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(apart), axis=1)[:, :-gap]


def plot_answers(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Draws `answers_figure`.

    Args:
      examples: In the order of appearance.
      path: The picture; its folder is made where it is missing. The format follows from the suffix.

    Raises:
      ValueError: There is no example.
    """
    figure = answers_figure(examples)
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
