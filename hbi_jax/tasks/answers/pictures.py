"""Pictures of questions about videos: the frames with the right and wrong answers of a model below them."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from hbi_jax.report.strips import Strip

RIGHT, WRONG = "#00695c", "#b71c1c"


class Example(NamedTuple):
    """A question with the answers of a model.

    Attributes:
      frames: The frames that the model saw, in order.
      question: The question as annotated.
      answer: The right answer.
      guesses: The model's likeliest answers, the likeliest first.
      probabilities: The probabilities of `guesses`.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    question: str
    answer: str
    guesses: Sequence[str]
    probabilities: Float[np.ndarray, " k"]

    @property
    def is_right(self) -> bool:
        """Returns whether the likeliest answer is right."""
        return self.guesses[0] == self.answer


def answer_strip(example: Example) -> Strip:
    """Returns a strip with the question above the frames and the answers below: green if right, red if wrong."""
    guesses = zip(example.guesses, example.probabilities, strict=True)
    said = ", ".join(f"{guess} ({100 * probability:.0f} %)" for guess, probability in guesses)
    if example.is_right:
        return Strip(example.frames, example.question, [(f"✓ given: {said}", RIGHT)])
    return Strip(example.frames, example.question, [(f"✗ answer: {example.answer}; given: {said}", WRONG)])


def plot_answers(examples: Sequence[Example], path: str | os.PathLike[str]) -> None:
    """Draws questions with their answers.

    Args:
      examples: The examples, from top to bottom.
      path: The picture; its folder is created if needed. The suffix sets the format.

    Raises:
      ValueError: If there is no example.
    """
    # Drawing libraries take long to load, and most commands draw nothing.
    from hbi_jax.report.plot_strips import plot_strips

    plot_strips([answer_strip(example) for example in examples], path)
