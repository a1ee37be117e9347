import numpy as np
import pytest
from PIL import Image

from hbi_jax.data import shapes
from hbi_jax.data.shapes import contact_sheet
from hbi_jax.data.shapes.encode import decode_video
from hbi_jax.data.shapes.scenes import stage_world


def test_the_sheet_shows_the_frames_of_the_files(tiny_world, tmp_path):
    path = shapes.preview(tiny_world, tmp_path / "sheet.png", num_videos=2)
    sheet = np.asarray(Image.open(path))
    video = decode_video(tiny_world / "videos/video10.mp4")  # the first of the test split
    big = np.asarray(Image.fromarray(video[2]).resize((112, 112), Image.Resampling.NEAREST))
    left = 6 + 112 + 6  # the second picture is frame 2 of 24
    assert np.array_equal(sheet[20 : 20 + 112, left : left + 112], big)
    caption = sheet[20 + 112 + 4 : 20 + 112 + 24, :300]
    assert (caption.max(-1) < 100).sum() > 50  # there is text


def test_near_twins_stand_together(tiny_config):
    chosen = contact_sheet._choose(stage_world(tiny_config), 10, 1)
    assert [(scene.split, scene.group) for scene in chosen[-4:]] == [("twins", 0)] * 4
    assert [scene.split for scene in chosen[:6]] == ["test"] * 6


def test_it_needs_no_folder(tmp_path):
    path = shapes.preview(None, tmp_path / "sheet.png", num_videos=1)
    boxed = shapes.preview(None, tmp_path / "boxes.png", num_videos=1, show_boxes=True)
    plain, boxes = (np.asarray(Image.open(p)).astype(int) for p in (path, boxed))
    changed = np.abs(plain - boxes).max(-1) > 20
    assert 100 < changed.sum() < 12 * 2 * 4 * 112
    assert not changed[20 + 112 :].any()


def test_errors_are_told(tiny_world, tmp_path):
    with pytest.raises(shapes.ShapesError, match="no finished world"):
        shapes.preview(tmp_path, tmp_path / "sheet.png")
    with pytest.raises(shapes.ShapesError, match="cannot write"):
        shapes.preview(tiny_world, tmp_path / "absent" / "sheet.png", num_videos=1)
    with pytest.raises(shapes.ShapesError, match=r"ends in \.png"):
        shapes.preview(tiny_world, tmp_path / "sheet.unknown", num_videos=1)
    with pytest.raises(shapes.ShapesError, match="num_videos=0"):
        shapes.preview(tiny_world, tmp_path / "sheet.png", num_videos=0)
