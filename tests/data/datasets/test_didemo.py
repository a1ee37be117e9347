import json

import numpy as np
import pytest

from hbi_jax.data.datasets import DataError, load_split
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer


def _entry(video, description):
    return {"annotation_id": 1, "video": video, "description": description, "times": [[0, 0], [1, 2]]}


@pytest.fixture
def data(folders):
    """Names with and without extension, on every side; one video of the test split has no file."""
    annotations = {
        "train_list.txt": "a@N0_1.avi\nb.mov\nc\n",
        "train_data.json": json.dumps(
            [_entry("b.mov", "One."), _entry("a@N0_1.avi", "Two."), _entry("c.3gp", "Three."), _entry("b.mov", "Four.")]
        ),
        "val_list.txt": "c.3gp\n",
        "val_data.json": json.dumps([_entry("c.3gp", "Five.")]),
        "test_list.txt": "d.MPG\ne.avi\n",
        "test_data.json": json.dumps([_entry("e.avi", "Six."), _entry("d.MPG", "Seven."), _entry("x.avi", "Eight.")]),
    }
    return folders(annotations, ("a@N0_1.avi", "b.mp4", "c.m4v", "e.avi.mp4"))


def _pairs(split):
    return [(record.video_id, record.text) for record in split.records]


def test_a_video_is_one_record_of_all_its_descriptions(data):
    train = load_split("didemo", "train", **data)
    assert _pairs(train) == [("a@N0_1", "Two."), ("b", "One. Four."), ("c", "Three.")]
    assert {(record.start, record.end) for record in train.records} == {(0, 31)}
    assert _pairs(load_split("didemo", "test", **data)) == [("d", "Seven."), ("e", "Six.")]


def test_names_are_matched_whatever_their_extension(data):
    train, test = (load_split("didemo", split, **data) for split in ("train", "test"))
    assert [record.path.name for record in train.records] == ["a@N0_1.avi", "b.mp4", "c.m4v"]
    assert [record.path.name for record in test.records] == ["d.mp4", "e.avi.mp4"]
    assert [record.path.exists() for record in test.records] == [False, True]


def test_val_has_its_list_or_the_end_of_the_train_list(data):
    options = {"val_list": "val_list.txt", **data}
    assert _pairs(load_split("didemo", "val", **options)) == [("c", "Five.")]
    assert [record.video_id for record in load_split("didemo", "train", **options).records] == ["a@N0_1", "b"]
    assert _pairs(load_split("didemo", "val", num_val_videos=1, **data)) == [("c", "Three.")]


def test_the_clip_is_the_first_31_seconds(data, write_video):
    write_video(data["videos"] / "e.avi.mp4", [*[40] * 32, *[200] * 8], fps=1)
    source = Source(load_split("didemo", "test", **data), Tokenizer(64), 16, 64, max_unreadable_rate=0.5)
    frames, mask, readable = source.video_rows(np.asarray([0, 1], np.int32))
    assert readable.tolist() == [False, True]
    assert mask[1].sum() == 32  # seconds 0 to 31
    np.testing.assert_allclose(frames[1, :32].astype(float), 40, atol=3)


LIST, ENTRIES = "test_list.txt", "test_data.json"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LIST, "e.avi\ne.mov\n", r"test_list\.txt: got 'e' 2 times"),
        (LIST, "", "got no records"),
        (LIST, "z.avi\n", r"test_data\.json, 'z': got no description, wanted at least one"),
        (LIST, b"\xff", "bytes that are not UTF-8"),
        (ENTRIES, {}, r"test_data\.json: got a dict, wanted a list of descriptions"),
        (ENTRIES, b"[", "malformed JSON"),
        (ENTRIES, [_entry("e", "a"), 3], r"\[1\]: got 3, wanted video and description \(text\)"),
        (ENTRIES, [_entry(3, "a")], r"\[0\]: got .*, wanted video and description"),
        (ENTRIES, [_entry("e", ["a"])], r"\[0\]: got .*, wanted video and description"),
        (ENTRIES, [_entry("e", "a"), _entry("d", " ")], "'d' .*: got an empty caption"),
    ],
)
def test_malformed_annotations_are_named(data, name, content, message):
    is_text = isinstance(content, str)
    content = content if isinstance(content, bytes) else (content if is_text else json.dumps(content)).encode()
    (data["annotations"] / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_split("didemo", "test", **data)


@pytest.mark.parametrize("video", ["../e.avi", "/etc/passwd.mp4", "..", "a\0", "a" * 300, ".mp4" * 5000])
def test_a_name_is_a_plain_file_name(data, video):
    (data["annotations"] / LIST).write_text(f"e.avi\n{video}\n")
    (data["annotations"] / ENTRIES).write_text(json.dumps([_entry("e.avi", "a"), _entry(video, "a")]))
    with pytest.raises(DataError, match="wanted a plain file name; correct the id"):
        load_split("didemo", "test", **data)


def test_a_list_is_named_after_its_descriptions(data):
    with pytest.raises(DataError, match=r"list of videos: got 'mine\.txt', wanted a name ending on _list\.txt"):
        load_split("didemo", "mine", galleries={"mine": "mine.txt"}, **data)
