"""Ground truth from word-to-time annotations."""

import functools
import json

import numpy as np
import pytest

from hbi_jax.data.datasets.records import DataError, Record, Split
from hbi_jax.data.shapes import WorldConfig, generate, load_ground_truth
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.data.video import sample_indices
from hbi_jax.tasks.retrieval import truths
from hbi_jax.tasks.retrieval.truths import TimedWord

GOOD = {
    "video_id": "v1",
    "caption": "It's a red, two-toned square; the square slides.",
    "words": [
        {"text": "Red", "role": "color", "times": [[0, 1.5], [3.0, 4]]},
        {"text": "toned", "role": "color", "times": []},
        {"text": "square", "role": "shape", "times": [[0, 9]]},
        {"text": "slides", "role": "action", "times": [[2, 3]]},
    ],
}


def write(path, *lines):
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_words_are_found_in_the_order_of_the_caption(tmp_path):
    other = GOOD | {"caption": "a square"} | {"words": []}
    found = truths.read_word_times(write(tmp_path / "words.jsonl", GOOD, other))
    assert found["v1", "a square"] == [TimedWord("a"), TimedWord("square")]
    assert found["v1", GOOD["caption"]] == [
        TimedWord("it's"), TimedWord("a"), TimedWord("red", "color", [(0, 1.5), (3, 4)]), TimedWord("two"),
        TimedWord("toned", "color", []), TimedWord("square", "shape", [(0, 9)]), TimedWord("the"), TimedWord("square"),
        TimedWord("slides", "action", [(2, 3)]),
    ]  # fmt: skip


def words(*entries):
    return GOOD | {"words": list(entries)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "line 1: got .*, wanted an object such as"),
        (GOOD | {"words": "red"}, "wanted an object such as"),
        (words({"text": "blue", "role": "color", "times": []}), "the word 'blue', wanted words of the caption"),
        (words(*reversed(GOOD["words"])), "the word '.*', wanted words of the caption .*, in its order"),
        (words({"text": "red", "role": "", "times": []}), "a role that is not empty"),
        (words({"text": "red", "role": "color", "times": [[2, 1]]}), "0 <= from <= to"),
        (words({"text": "red", "role": "color", "times": [[-1, 1]]}), "0 <= from <= to"),
        (words({"text": "red", "role": "color", "times": [[0, float("nan")]]}), "0 <= from <= to"),
        (words({"text": "red", "role": "color", "times": [[0, float("inf")]]}), "0 <= from <= to"),
        (words({"text": "red", "role": "color", "times": [0, 1]}), "0 <= from <= to"),
        (words({"text": "red", "role": "color", "times": [[0, True]]}), "0 <= from <= to"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        truths.read_word_times(write(tmp_path / "words.jsonl", line))


def test_a_caption_is_annotated_once(tmp_path):
    with pytest.raises(DataError, match=r"line 2: got the caption .* again"):
        truths.read_word_times(write(tmp_path / "words.jsonl", GOOD, GOOD))


def test_times_are_those_of_the_sampled_frames(tmp_path):
    """The embedded world's own truth, written as times, comes back; unreadable videos are left out."""
    config = WorldConfig(num_train=3, num_val=0, num_test=3, num_twin_groups=0)
    generate(tmp_path / "world", config)
    known = load_ground_truth(tmp_path / "world")
    lines, records = [], []
    for video_id, truth in known.items():
        entries = []
        for word, frames in zip(truth.words, truth.word_frames(), strict=True):
            shown = np.flatnonzero(frames) / config.fps
            times = [[time, time] for time in shown.tolist()]
            entries += [{"text": word.text, "role": word.role, "times": times}] if word.role else []
        lines.append({"video_id": video_id, "caption": truth.caption, "words": entries})
        records.append(Record(truth.caption, video_id, tmp_path / "world" / "videos" / f"{video_id}.mp4"))
    records.append(Record("a gone square", "gone", tmp_path / "gone.mp4"))
    lines.append({"video_id": "gone", "caption": "a gone square", "words": []})
    source = Source(Split("test", tuple(records)), Tokenizer(32), 16, 6, frames_per_second=2.0)
    found = truths.of_source(truths.read_word_times(write(tmp_path / "words.jsonl", *lines)), source)
    sample = functools.partial(sample_indices, fps=float(config.fps), max_frames=6, frames_per_second=2.0)
    wanted = truths.of_world(known, sample)
    assert set(found) == set(wanted)
    for key, truth in found.items():
        assert list(truth.words) == [word.lower() for word in wanted[key].words]
        np.testing.assert_array_equal(truth.frames, wanted[key].frames)
