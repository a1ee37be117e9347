"""Regions: the frame that words are asked about, and the patches that are true, by hand."""

import functools

import numpy as np
import pytest

from hbi_jax.data.shapes import Entity, GroundTruth, Word
from hbi_jax.data.video import sample_indices
from hbi_jax.tasks.retrieval import regions
from hbi_jax.tasks.retrieval.regions import Region, patches_in

WORDS = (
    Word("a"), Word("red", "color", 0), Word("star", "shape", 0), Word("blinks", "action", 0), Word("then"),
    Word("a"), Word("ring", "shape", 1), Word("spins", "action", 1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        # The centres of 3 x 3 patches are at 1/6, 1/2 and 5/6.
        ((0.4, 0.1, 1.0, 0.6), [[0, 1, 1], [0, 1, 1], [0, 0, 0]]),
        ((0.0, 0.7, 0.3, 1.0), [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        ((0.2, 0.2, 0.4, 0.4), np.zeros((3, 3))),
        ((0.0, 0.0, 1.0, 1.0), np.ones((3, 3))),
        ((0.5, 0.5, 0.5, 0.5), [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    ],
)
def test_patches_are_true_where_their_centre_is_in_the_box(box, wanted):
    np.testing.assert_array_equal(patches_in(np.array(box), 3).reshape(3, 3), wanted)


def test_words_that_refer_to_nothing_have_no_patch():
    truth = Region(["a", "star"], ["", "shape"], 0, np.array([0.0, 0.0, 0.5, 1.0])).of_patches(4)
    assert (truth.words, truth.roles) == (["a", "star"], ["", "shape"])
    np.testing.assert_array_equal(truth.frames, [[0, 0, 0, 0], [1, 0, 1, 0]])


def truth_of(visible, spans):
    boxes = np.arange(3 * 12 * 4).reshape(3, 12, 4) / 144
    entities = (Entity("red", "star", "small"), Entity("blue", "ring", "large"), Entity("cyan", "cross", "small"))
    return GroundTruth(
        "v1", "test", None, "A red star blinks, then a ring spins.", WORDS, entities, ("blink", "spin", None),
        (*spans, (0, 0)), np.asarray(visible, bool), boxes,
    )  # fmt: skip


def test_the_frame_is_the_middle_one_that_shows_the_event():
    visible = np.ones((3, 12))
    visible[0, [4, 5, 6, 7]] = 0
    truth = truth_of(visible, [(1, 7), (7, 12)])
    sample = functools.partial(sample_indices, fps=2.0, max_frames=6, frames_per_second=1.0)
    assert sample(12).tolist() == [0, 2, 4, 6, 8, 10]
    ((key, (first, second)),) = regions.of_world({"v1": truth}, sample).items()
    assert key == ("v1", truth.caption)
    assert first.words == second.words == [word.text for word in WORDS]
    # The star is in frame 2 only while it blinks; the ring spins in frames 8 and 10.
    assert (first.frame, second.frame) == (1, 5)
    np.testing.assert_array_equal(first.box, truth.boxes[0, 2])
    np.testing.assert_array_equal(second.box, truth.boxes[1, 10])
    assert first.roles == ["", "color", "shape", "action", "", "", "", ""]
    assert second.roles == ["", "", "", "", "", "", "shape", "action"]


def test_an_event_that_no_sampled_frame_shows_has_no_region():
    visible = np.ones((3, 12))
    visible[1, 7:] = 0
    truth = truth_of(visible, [(1, 7), (7, 12)])
    (found,) = regions.of_world({"v1": truth}, lambda count: np.arange(0, count, 2)).values()
    assert [region.roles[1] for region in found] == ["color"]
