"""The plot of an ablation: what its marks say, where they are, and what is left out."""

import numpy as np
import pytest
from PIL import Image

from hbi_jax.ablations.pictures import ablation_figure, plot_ablation

MODELS = {
    "baseline": [{"t2v R@1": 40.0, "Rsum": 300.0, "in-group accuracy": 30.0}, {"t2v R@1": 44.0, "Rsum": 310.0}],
    "better": [{"t2v R@1": 50.0, "Rsum": 320.0, "in-group accuracy": 35.0}],
    "not run": [],
}
CHANCE = {"t2v R@1": 0.4, "in-group accuracy": 25.0}


@pytest.fixture(scope="module")
def panels():
    figure = ablation_figure("Some models", MODELS, CHANCE)
    figure.draw_without_rendering()
    return {axes.get_title("left"): axes for axes in figure.axes}


def marks(axes, marker):
    """Places of one kind of mark, x and y."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return np.concatenate([np.stack(line.get_data(), axis=1) for line in lines]).tolist()


def test_every_seed_has_a_dot_and_every_model_a_mean(panels):
    assert list(panels) == ["t2v R@1", "in-group accuracy"]
    assert marks(panels["t2v R@1"], "o") == [[40.0, 0.0], [44.0, 0.0], [50.0, 1.0]]
    assert marks(panels["t2v R@1"], "|") == [[42.0, 0.0], [50.0, 1.0]]
    # A figure that one of the runs lacks is that of the others.
    assert marks(panels["in-group accuracy"], "|") == [[30.0, 0.0], [35.0, 1.0]]


def test_models_stand_from_top_to_bottom_and_keep_their_place(panels):
    axes = panels["t2v R@1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MODELS)
    bottom, top = axes.get_ylim()
    assert bottom > 2 > 0 > top


def test_chance_is_a_line_where_it_is_near_and_a_word_where_it_is_far(panels):
    (line,) = (line for line in panels["in-group accuracy"].get_lines() if line.get_label() == "chance")
    assert set(line.get_xdata()) == {25.0}
    far = panels["t2v R@1"]
    assert [text.get_text() for text in far.texts] == ["← chance 0.4"]
    # The axis is about the models.
    assert far.get_xlim()[0] > 35
    (legend,) = far.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a seed", "mean", "chance"]


def test_other_figures_are_drawn_where_there_are_no_recalls():
    figure = ablation_figure("Answers", {"a": [{"accuracy, %": 50.0, "loss": 1.0}]}, {})
    assert [axes.get_title("left") for axes in figure.axes] == ["accuracy, %", "loss"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a seed", "mean"]


def test_the_picture_is_saved_anew(tmp_path):
    path = tmp_path / "new" / "table.png"
    for models in ({"baseline": MODELS["baseline"]}, MODELS):
        plot_ablation("Some models", models, CHANCE, path)
    width, height = Image.open(path).size
    assert width > 2 * height
    assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 20


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no model has a run"):
        ablation_figure("Empty", {"not run": []}, CHANCE)
