"""The interaction picture: frames above columns, words beside rows, outlines where the truth is."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from hbi_jax.tasks.retrieval.plot import interaction_figure, plot_interaction

WORDS = ["a", "red", "square", "costs", "$5", "or", "$6"]


def example(num_frames=12, words=WORDS):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_frames, 24, 32, 3), dtype=np.uint8)
    interaction = rng.normal(size=(len(words), num_frames))
    truth = np.zeros(interaction.shape, bool)
    truth[1, 2:5] = truth[1, 7] = truth[2, :3] = True
    return frames, words, interaction, truth


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_words_and_frames_label_the_cells():
    frames, words, interaction, _ = example()
    figure = interaction_figure(frames, words, interaction, "title")
    heat = axes_of(figure)["interaction"]
    assert [label.get_text() for label in heat.get_yticklabels()] == words
    assert [label.get_text() for label in heat.get_xticklabels()] == [str(k) for k in range(1, 13)]
    np.testing.assert_array_equal(heat.get_images()[0].get_array(), interaction)
    assert heat.get_ylim() == (6.5, -0.5)  # first word on top
    assert "title" in [text.get_text() for text in figure.texts]


def test_frames_stand_above_their_columns():
    frames, words, interaction, _ = example()
    figure = interaction_figure(frames, words, interaction, "title")
    top, heat = axes_of(figure)["frames"], axes_of(figure)["interaction"]
    assert len(top.get_images()) == 12
    for place, image in enumerate(top.get_images()):
        np.testing.assert_array_equal(image.get_array(), frames[place])
        left, right = image.get_extent()[:2]
        assert (left + right) / 2 == pytest.approx(place)
        above = top.transData.transform((place, 0))[0]
        assert above == pytest.approx(heat.transData.transform((place, 0))[0])
    assert top.get_position().y0 > heat.get_position().y1
    # 32 x 24 frames keep their shape: the axes is 12 frames wide and one high.
    box = top.get_window_extent()
    assert box.width / 12 / box.height == pytest.approx(32 / 24)


def test_colours_are_centred_at_zero():
    frames, words, interaction, _ = example()
    image = axes_of(interaction_figure(frames, words, interaction - 3, "title"))["interaction"].get_images()[0]
    limit = np.abs(interaction - 3).max()
    assert image.get_clim() == (-limit, limit)
    red, _, blue = to_rgb(image.to_rgba(limit))
    assert red > blue
    red, _, blue = to_rgb(image.to_rgba(-limit))
    assert red < blue
    assert min(to_rgb(image.to_rgba(0.0))) > 0.95
    flat = axes_of(interaction_figure(frames, words, 0 * interaction, "title"))["interaction"]
    assert flat.get_images()[0].get_clim() == (-1.0, 1.0)


def test_outlines_enclose_the_runs_of_true_cells():
    frames, words, interaction, truth = example()
    heat = axes_of(interaction_figure(frames, words, interaction, "title", truth))["interaction"]
    boxes = [patch for patch in heat.patches if isinstance(patch, Rectangle)]
    found = [
        (round(box.get_y() + 0.5), round(box.get_x() + 0.5), round(box.get_x() + box.get_width() + 0.5))
        for box in boxes
    ]
    assert found == [(1, 2, 5), (1, 7, 8), (2, 0, 3)]  # row, first frame, frame after the last
    for box in boxes:
        assert 0.8 < box.get_height() < 1
    assert not axes_of(interaction_figure(frames, words, interaction, "title"))["interaction"].patches


def test_truth_changes_the_picture_around_its_cells_only(tmp_path):
    frames, words, interaction, truth = example()
    other = np.zeros_like(truth)
    plot_interaction(frames, words, interaction, tmp_path / "with.png", "title", truth)
    plot_interaction(frames, words, interaction, tmp_path / "without.png", "title", other)
    pictures = [np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("with.png", "without.png")]
    changed = np.abs(pictures[0] - pictures[1]).sum(axis=2) > 30
    figure = interaction_figure(frames, words, interaction, "title", truth)
    heat = axes_of(figure)["interaction"]
    # Pixel rows count from the top.
    corners = [heat.transData.transform((x, y)) for x, y in ((-0.5, 0.5), (7.5, 2.5))]
    (left, upper), (right, lower) = ((x, changed.shape[0] - y) for x, y in corners)
    inside = changed[int(upper) - 3 : int(lower) + 4, int(left) - 3 : int(right) + 4]
    assert inside.sum() > 500
    assert inside.sum() == changed.sum()


def test_twenty_words_and_twelve_frames_have_room(tmp_path):
    words = [f"word{k}" for k in range(19)] + ["kaleidoscopically"]
    frames, _, interaction, _ = example(words=words)
    title = "a title that is much longer than a line of the picture has room for " * 3
    figure = interaction_figure(frames, words, interaction, title)
    figure.draw_without_rendering()
    heat = axes_of(figure)["interaction"]
    labels = [label.get_window_extent() for label in heat.get_yticklabels()]
    assert min(box.x0 for box in labels) > 0
    for upper, lower in itertools.pairwise(labels):
        assert lower.y1 <= upper.y0 + 1
    texts = [text.get_window_extent() for text in figure.texts]
    top = axes_of(figure)["frames"].get_window_extent()
    for box in texts:
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= top.y1
    plot_interaction(frames, words, interaction, tmp_path / "new" / "picture.png", title)
    picture = Image.open(tmp_path / "new" / "picture.png")
    assert (picture.width, picture.height) == tuple(int(size) for size in figure.bbox.size)
    assert picture.width > 1000


@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e-5])
def test_the_colour_bar_has_room_for_its_numbers(scale):
    frames, words, interaction, _ = example()
    figure = interaction_figure(frames, words, scale * interaction, "a title")
    figure.draw_without_rendering()
    assert axes_of(figure)["colorbar"].get_tightbbox().x1 <= figure.bbox.x1


def test_bad_input_is_refused(tmp_path):
    frames, words, interaction, truth = example()
    broken = interaction.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        interaction_figure(frames, words, broken, "title")
    with pytest.raises(ValueError, match="7 words x 12 frames, but there are 6 words and 12 frames"):
        interaction_figure(frames, words[:-1], interaction, "title")
    with pytest.raises(ValueError, match="0 words and 12 frames"):
        interaction_figure(frames, [], interaction[:0], "title", truth[:0])
