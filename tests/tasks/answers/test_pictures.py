"""The picture of answered questions: what it says of each, and in which colour."""

import numpy as np
import pytest

from hbi_jax.report.plot_strips import strips_figure
from hbi_jax.tasks.answers.pictures import RIGHT, WRONG, Example, answer_strip, plot_answers


def example(guesses, frames=3):
    clip = np.full((frames, 8, 8, 3), 7, np.uint8)
    return Example(clip, "which $hape spins?", "ring", guesses, np.array([0.62, 0.2], np.float32)[: len(guesses)])


def test_right_and_wrong_answers_are_told_apart():
    examples = [example(["ring", "star"]), example(["star"], frames=1)]
    figure = strips_figure([answer_strip(shown) for shown in examples])
    texts = {text.get_text(): text.get_color() for text in figure.texts}
    assert texts["✓ given: ring (62 %), star (20 %)"] == RIGHT
    assert texts["✗ answer: ring; given: star (62 %)"] == WRONG
    assert [text.get_text() for text in figure.texts].count("which $hape spins?") == 2
    # Three frames of 8 pixels with a gap of one between them; the gap is white.
    strip = figure.axes[0].images[0].get_array()
    assert strip.shape == (8, 26, 3)
    assert (strip[:, [8, 17]] == 255).all()
    assert (np.delete(strip, [8, 17], axis=1) == 7).all()


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="0 examples"):
        plot_answers([], tmp_path / "answers.png")
