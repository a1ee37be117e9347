"""The frames that carry a match, and which results overlap."""

import json

import numpy as np

from hbi_jax.search.moments import WHOLE_TEXT, Moment, labelled, without_overlaps

VALUES = np.array([[0.0, 0.1, 0.4, 0.3, -0.2], [0.0, 0.0, 0.2, 0.1, 0.0]], np.float32)
MOMENT = Moment("a.mp4", 10.0, 15.0, 0.5, ("red", "ball"), (10.0, 11.0, 12.0, 13.0, 14.0), VALUES)


def test_the_focus_is_the_run_of_strong_frames_around_the_strongest():
    assert MOMENT.best_frame == 2
    assert MOMENT.focus == (12.0, 14.0)
    late = MOMENT._replace(interaction=VALUES[:, ::-1][:, [0, 1, 4, 3, 2]])
    assert (late.best_frame, late.focus) == (4, (14.0, 15.0))


def test_where_no_frame_stands_out_it_is_the_clip():
    for values in (np.zeros((2, 5), np.float32), -np.abs(VALUES)):
        dull = MOMENT._replace(interaction=values)
        assert (dull.best_frame, dull.focus) == (None, (10.0, 15.0))
    merged = Moment("a.mp4", 10.0, 15.0, 0.5, *labelled(("red",), (10.0, 11.0), np.ones((2, 3), np.float32)))
    assert (merged.words, merged.frames, merged.best_frame, merged.focus) == ((), (), None, (10.0, 15.0))


def test_rows_are_words_and_the_whole_text():
    game = np.arange(12, dtype=np.float32).reshape(4, 3)
    words, frames, values = labelled(("red", "ball"), (0.0, 1.0, 2.0), game)
    assert (words, frames) == (("red", "ball", WHOLE_TEXT), (0.0, 1.0, 2.0))
    np.testing.assert_array_equal(values, game[1:])
    assert labelled(("red", "ball"), (0.0, 1.0, 2.0), game[:1])[0] == (WHOLE_TEXT,)
    # Of models whose players are the words alone, and the words and the start token.
    for first in (1, 0):
        words, _, values = labelled(("red", "ball"), (0.0, 1.0, 2.0), game[first:3])
        assert words == ("red", "ball")
        np.testing.assert_array_equal(values, game[1:3])


def test_a_moment_is_written_as_json():
    read = json.loads(json.dumps(MOMENT.to_json()))
    assert (read["video"], read["focus"], read["words"]) == ("a.mp4", [12.0, 14.0], ["red", "ball"])
    np.testing.assert_allclose(read["interaction"], VALUES, atol=1e-6)


def test_of_overlapping_clips_the_best_is_shown():
    clips = [("a", 2.0, 6.0), ("b", 2.0, 6.0), ("a", 0.0, 4.0), ("a", 6.0, 10.0), ("a", 9.0, 13.0), ("c", 0.0, 1.0)]
    assert without_overlaps(clips, 4) == [0, 1, 3, 5]
    assert without_overlaps(clips, 2) == [0, 1]
