"""The picture of words on patches: a panel for each word, the box outlined."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from hbi_jax.tasks.retrieval.plot_patches import PatchGrid, patches_figure, plot_patches

FRAME = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
GRIDS = [
    PatchGrid(FRAME, ["red", "$5"], np.array([[1.0, -2, 0, 1], [0, 0, 0.5, 0]]), np.array([0.5, 0.25, 1.0, 0.75])),
    PatchGrid(FRAME, ["ring", "turns", "around"], np.arange(12.0).reshape(3, 4) - 7),
]


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_every_word_has_a_panel_beside_its_frame():
    axes = axes_of(patches_figure(GRIDS, "a title of $5"))
    assert {label: panel.get_title() for label, panel in axes.items()} == {
        "0 0": "frame", "0 1": "red", "0 2": "$5", "1 0": "frame", "1 1": "ring", "1 2": "turns", "1 3": "around",
    }  # fmt: skip
    np.testing.assert_array_equal(axes["0 0"].get_images()[0].get_array(), FRAME)
    for number, grid in enumerate(GRIDS):
        for column, values in enumerate(grid.interaction, 1):
            grey, heat = axes[f"{number} {column}"].get_images()
            assert grey.get_array().shape == (24, 24)
            # Row by row from the top left, on a scale of its own.
            limit = np.abs(values).max()
            np.testing.assert_array_equal(heat.get_array(), values.reshape(2, 2))
            assert heat.get_extent() == [0, 1, 1, 0]
            assert heat.get_clim() == (-limit, limit)
            np.testing.assert_allclose(heat.get_alpha(), 0.85 * np.abs(values.reshape(2, 2)) / limit)
    assert axes["0 2"].get_xlabel() == "± 0.5"


def test_the_box_is_outlined_in_every_panel_of_its_frame():
    axes = axes_of(patches_figure(GRIDS, "title"))
    boxes = {
        label: [patch.get_bbox().extents.tolist() for patch in panel.patches if isinstance(patch, Rectangle)]
        for label, panel in axes.items()
    }
    assert {label for label, found in boxes.items() if found} == {"0 0", "0 1", "0 2"}
    assert boxes["0 1"] == [[0.5, 0.25, 1.0, 0.75]]


def test_nothing_overlaps_or_is_cut_off(tmp_path):
    figure = patches_figure(GRIDS, "a title that is longer than a line of the picture has room for " * 3)
    figure.draw_without_rendering()
    boxes = {label: panel.get_tightbbox() for label, panel in axes_of(figure).items()}
    for box in boxes.values():
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert boxes["1 0"].y1 <= boxes["0 0"].y0
    assert boxes["0 0"].x1 <= boxes["0 1"].x0
    plot_patches(GRIDS, tmp_path / "new" / "patches.png", "title")
    assert (tmp_path / "new" / "patches.png").stat().st_size > 5000


def test_interactions_of_zero_are_drawn():
    patches_figure([GRIDS[0]._replace(interaction=np.zeros((2, 4)))], "title").draw_without_rendering()


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ([], "grids: got none"),
        ([GRIDS[0]._replace(words=["red"])], "interaction has 2 rows, and there are 1 words"),
        ([GRIDS[0]._replace(words=[], interaction=np.zeros((0, 4)))], "at least one word"),
        ([GRIDS[0]._replace(interaction=np.zeros((2, 5)))], "interaction has 5 patches, wanted a square number"),
        ([GRIDS[0]._replace(interaction=np.full((2, 4), np.nan))], "8 values that are not finite"),
    ],
)
def test_bad_grids_are_named(grids, message):
    with pytest.raises(ValueError, match=message):
        patches_figure(grids, "title")
