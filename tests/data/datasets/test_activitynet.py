import json

import numpy as np
import pytest

from hbi_jax.data.datasets import DataError, load_split
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer


def _entry(duration, *sentences):
    return {"duration": duration, "timestamps": [[0, duration]] * len(sentences), "sentences": list(sentences)}


@pytest.fixture
def data(tmp_path):
    """Three train videos and two of the test split, one of which has no file; names with and without `v_`."""
    annotations, videos = tmp_path / "annotations", tmp_path / "videos"
    annotations.mkdir()
    videos.mkdir()
    files = {
        "train_ids.json": ["v_b", "v_a", "v_-c"],
        "val_ids.json": ["v_e", "v_d"],
        "train.json": {
            "v_a": _entry(10, "A man runs.", " He falls."),
            "v_b": _entry(82.73, "A dog  barks."),
            "v_-c": _entry(0.4, "Rain.", "Sun."),
            "v_unlisted": "not looked at",
        },
        "val_1.json": {"v_d": _entry(7.0, "Zwölf."), "v_e": _entry(7.01, "One.", "Two.", "Three.")},
    }
    for name, content in files.items():
        (annotations / name).write_text(json.dumps(content))
    for name in ("v_a.mp4", "b.mkv", "v_b.webm", "-c.mp4", "d.webm"):
        (videos / name).touch()
    return {"annotations": annotations, "videos": videos}


def _pairs(split):
    return [(record.video_id, record.text) for record in split.records]


def test_a_video_is_one_record_of_all_its_sentences(data):
    train = load_split("activitynet", "train", **data)
    assert _pairs(train) == [("v_b", "A dog  barks."), ("v_a", "A man runs.  He falls."), ("v_-c", "Rain. Sun.")]
    assert [(record.start, record.end) for record in train.records] == [(0, 83), (0, 10), (0, 1)]
    assert (train.records[0].answer, train.records[0].answer_type) == (None, None)
    test = load_split("activitynet", "test", **data)
    assert _pairs(test) == [("v_e", "One. Two. Three."), ("v_d", "Zwölf.")]
    assert [record.end for record in test.records] == [8, 7]


def test_files_are_found_with_and_without_the_prefix(data):
    train, test = (load_split("activitynet", split, **data) for split in ("train", "test"))
    assert [record.path.name for record in train.records] == ["v_b.webm", "v_a.mp4", "-c.mp4"]
    assert [record.path.name for record in test.records] == ["v_e.mp4", "d.webm"]
    assert not test.records[0].path.exists()


def test_the_clip_ends_with_the_duration_and_a_missing_video_is_counted(data, write_video):
    write_video(data["videos"] / "v_d.mp4", range(0, 200, 20), fps=1)
    source = Source(load_split("activitynet", "test", **data), Tokenizer(64), 16, 64, max_unreadable_rate=0.5)
    frames, mask, readable = source.video_rows(np.asarray([0, 1], np.int32))
    assert readable.tolist() == [False, True]
    np.testing.assert_allclose(frames[1, :8].astype(float).mean(axis=(1, 2, 3)), range(0, 160, 20), atol=2)
    assert mask[1].sum() == 8  # of ten frames: seconds 0 to 7
    assert list(source.unreadable) == ["v_e"]


def test_val_is_held_out_of_train_or_has_a_list(data):
    held_out = {"num_val_videos": 1, **data}
    assert _pairs(load_split("activitynet", "val", **held_out)) == [("v_-c", "Rain. Sun.")]
    assert [r.video_id for r in load_split("activitynet", "train", **held_out).records] == ["v_b", "v_a"]
    published = load_split("activitynet", "val", val_list="val_ids.json", **data)
    assert published.records == load_split("activitynet", "test", **data).records
    with pytest.raises(DataError, match="num_val_videos: got 0, wanted a val_list, or a number below the 3 videos"):
        load_split("activitynet", "val", **data)


IDS, CAPTIONS = "val_ids.json", "val_1.json"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IDS, {"v_d": 1}, r"val_ids\.json: got a dict, wanted a list of ids"),
        (IDS, ["v_d", 7], r"val_ids\.json, \[1\]: got 7, wanted an id"),
        (IDS, ["v_d", "v_e", "v_d"], r"val_ids\.json: got 'v_d' 2 times"),
        (IDS, ["v_d", "v_a"], r"val_1\.json, 'v_a': got no captions"),
        (IDS, [], "got no records"),
        (CAPTIONS, [], r"val_1\.json: got a list, wanted an object"),
        (CAPTIONS, b'{"v_d": 1, "v_d": 2}', r"val_1\.json: got malformed JSON \(the key 'v_d' 2 times"),
        (CAPTIONS, b"\xff", "bytes that are not UTF-8"),
        (CAPTIONS, {"v_e": "text"}, r"val_1\.json, 'v_e': got 'text', wanted duration \(above 0 to 1000000 s\)"),
        (CAPTIONS, {"v_e": {"duration": 3}}, "'v_e': got {'duration': 3}, wanted duration .* sentences"),
        (CAPTIONS, {"v_e": _entry("3", "a")}, "'v_e': got .*, wanted duration"),
        (CAPTIONS, {"v_e": _entry(True, "a")}, "'v_e': got .*, wanted duration"),
        (CAPTIONS, {"v_e": _entry(0, "a")}, "'v_e': got .*, wanted duration"),
        (CAPTIONS, {"v_e": _entry(float("nan"), "a")}, "'v_e': got .*, wanted duration"),
        (CAPTIONS, {"v_e": _entry(1e300, "a")}, "'v_e': got .*, wanted duration"),
        (CAPTIONS, {"v_e": _entry(3, "a", None)}, "'v_e': got .*, wanted .*a list of text"),
        (CAPTIONS, {"v_e": {"duration": 3, "sentences": "a"}}, "'v_e': got .*, wanted .*a list of text"),
        (CAPTIONS, {"v_e": _entry(3), "v_d": _entry(3, "a")}, r"'v_e' \(.*\): got an empty caption"),
    ],
)
def test_malformed_annotations_are_named(data, name, content, message):
    path = data["annotations"] / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DataError, match=message):
        load_split("activitynet", "test", **data)


@pytest.mark.parametrize("video_id", ["../v_a", "/etc/passwd", "..", "", "a\0", "\ud800"])
def test_an_id_is_a_plain_file_name(data, video_id):
    (data["annotations"] / IDS).write_text(json.dumps(["v_d", video_id]))
    (data["annotations"] / CAPTIONS).write_text(json.dumps({"v_d": _entry(1, "a"), video_id: _entry(1, "a")}))
    with pytest.raises(DataError, match="wanted a plain file name; correct the id"):
        load_split("activitynet", "test", **data)


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("twins", {}, "split: got 'twins', wanted one of train, val, test; "),
        ("train", {"annotations": "/no/such"}, "annotations /no/such: got no such folder"),
        ("train", {"videos": "/no/such"}, "videos /no/such: got no such folder"),
        ("train", {"train_list": "absent.json"}, r"absent\.json: got no such file"),
        ("train", {"train_captions": "absent.json"}, r"absent\.json: got no such file"),
    ],
)
def test_wrong_options_are_named(data, split, options, message):
    with pytest.raises(DataError, match=message):
        load_split("activitynet", split, **(data | options))


def test_a_folder_without_any_of_the_videos_is_the_wrong_one(data, tmp_path):
    with pytest.raises(DataError, match=r"none of the split's videos, wanted .*v_b\.mp4 and others"):
        load_split("activitynet", "train", **(data | {"videos": tmp_path}))
