"""The picture of all levels: groups of words beside rows, groups of frames below columns."""

import itertools

import numpy as np
import pytest

from hbi_jax.tasks.retrieval.plot_levels import LevelGrid, levels_figure, plot_levels

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
LEVELS = [
    LevelGrid("entity", ["a", "$5", "square"], np.arange(15.0).reshape(3, 5) - 7, np.arange(5)),
    LevelGrid("action", ["a square", "a group of words that is much too long for the place"],
              np.array([[1.0, 1, -2, 1, -2], [0, 0, 4, 0, 4]]), np.array([2, 2, 0, 2, 0])),
]  # fmt: skip


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_every_level_has_its_cells_groups_and_scale():
    axes = axes_of(levels_figure(FRAMES, LEVELS, "a title of $5"))
    for level in LEVELS:
        image = axes[level.name].get_images()[0]
        np.testing.assert_array_equal(image.get_array(), level.interaction)
        limit = np.abs(level.interaction).max()
        assert image.get_clim() == (-limit, limit)
    labels = {name: [label.get_text() for label in axes[name].get_xticklabels()] for name in ("entity", "action")}
    # Unmerged frames have numbers; groups have letters, by their first frame.
    assert labels == {"entity": ["1", "2", "3", "4", "5"], "action": ["A", "A", "B", "A", "B"]}
    words = [label.get_text() for label in axes["action"].get_yticklabels()]
    assert words == ["a square", "a group of words that is much ..."]
    borders = [line.get_xdata()[0] for line in axes["action"].lines if line.get_xdata()[0] == line.get_xdata()[1]]
    assert borders == [1.5, 2.5, 3.5]


def test_nothing_overlaps_or_is_cut_off(tmp_path):
    figure = levels_figure(FRAMES, LEVELS, "a title that is longer than a line of the picture has room for " * 3)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes if not axes.get_label().startswith("colorbar")]
    for upper, lower in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1
    for box in (axes.get_tightbbox() for axes in figure.axes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
    plot_levels(FRAMES, LEVELS, tmp_path / "new" / "levels.png", "title")
    assert (tmp_path / "new" / "levels.png").stat().st_size > 5000


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match="levels: got none"):
        levels_figure(FRAMES, [], "title")
    with pytest.raises(ValueError, match=r"level 'entity': the interaction has shape \(3, 5\).*wanted \(3, 4\) and 4"):
        levels_figure(FRAMES[:4], LEVELS, "title")
