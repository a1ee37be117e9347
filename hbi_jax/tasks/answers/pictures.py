"""Questions about videos with the answers of a model, right and wrong, below the frames."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from hbi_jax.report.strips import Strip, plot_strips

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


def answer_strip(example: Example) -> Strip:
    """The question above its frames and the answers below them: green if right, red if wrong."""
    guesses = zip(example.guesses, example.probabilities, strict=True)
    said = ", ".join(f"{guess} ({100 * probability:.0f} %)" for guess, probability in guesses)
    if example.is_right:
        return Strip(example.frames, example.question, [(f"✓ given: {said}", RIGHT)])
    return Strip(example.frames, example.question, [(f"✗ answer: {example.answer}; given: {said}", WRONG)])


def plot_answers(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Draws questions with their answers.

    Args:
      examples: In the order of appearance.
      path: The picture; its folder is made where it is missing. The format follows from the suffix.

    Raises:
      ValueError: There is no example.
    """
    plot_strips([answer_strip(example) for example in examples], path)
