"""The picture of captioned videos, and the strips that it is made of."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hbi_jax.report.plot_strips import strips_figure
from hbi_jax.tasks.captions.pictures import GREY, Example, caption_strip, plot_captions

CLIP = np.full((3, 8, 8, 3), 7, np.uint8)


def test_the_caption_is_above_the_frames_and_references_below():
    examples = [Example(CLIP, "a $mall ring spins", ["one", "two", "three"]), Example(CLIP[:1], "", ["four " * 40])]
    figure = strips_figure([caption_strip(example) for example in examples])
    texts = {text.get_text(): text for text in figure.texts}
    assert len(texts) == 5
    caption, reference = texts["a $mall ring spins"], texts["reference: one"]
    assert "reference: two" in texts
    assert "(an empty caption)" in texts
    assert any(text.startswith("reference: four four") and text.endswith(" ...") for text in texts)
    assert (caption.get_weight(), reference.get_color()) == ("bold", GREY)
    frames = figure.axes[0].get_position()
    assert caption.get_position()[1] > frames.y1 > frames.y0 > reference.get_position()[1]
    # Three frames of 8 pixels with a gap of one between them; the gap is white.
    strip = figure.axes[0].images[0].get_array()
    assert strip.shape == (8, 26, 3)
    assert (strip[:, [8, 17]] == 255).all()
    assert (np.delete(strip, [8, 17], axis=1) == 7).all()


def test_nothing_overlaps():
    """Texts and frames follow each other downwards, also where a caption takes several lines."""
    examples = [Example(CLIP, "word " * 60, ["one", "two"]), Example(CLIP, "short", ["three"])]
    figure = strips_figure([caption_strip(example) for example in examples])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [item.get_window_extent(renderer) for item in (*figure.texts, *figure.axes)]
    boxes.sort(key=lambda box: -box.y1)
    assert len(boxes) == 7
    assert all(above.y0 >= below.y1 - 3 for above, below in itertools.pairwise(boxes))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


def test_a_picture_is_written_and_nothing_to_draw_is_said(tmp_path):
    plot_captions([Example(CLIP, "a", ["b"])], tmp_path / "new" / "captions.png")
    assert (tmp_path / "new" / "captions.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="0 examples"):
        plot_captions([], tmp_path / "captions.png")
