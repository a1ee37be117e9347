import csv
import json
import pathlib

import pytest

from hbi_jax.data.datasets import GALLERIES, LOADERS, DataError, Record, Split, load_split, msrvtt

MSRVTT = pathlib.Path(__file__).parents[3].parent / "shared" / "data" / "msrvtt"

needs_msrvtt = pytest.mark.skipif(not MSRVTT.is_dir(), reason="the MSR-VTT annotations are not here")


def _write_csv(path, columns, *rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def data(tmp_path):
    """Four train videos with one to three captions, a test list and groups of twins; `v3` has no file."""
    annotations, videos = tmp_path / "annotations", tmp_path / "videos"
    annotations.mkdir()
    videos.mkdir()
    _write_csv(annotations / "MSRVTT_train.9k.csv", ["video_id"], ["v2"], ["v0"], ["v1"], ["v3"])
    _write_csv(annotations / "held_out.csv", ["video_id", "note"], ["v0", "x"], ["v9", "y"])
    _write_csv(
        annotations / "MSRVTT_JSFUSION_test.csv",
        ["key", "vid_key", "video_id", "sentence"],
        ["ret0", "msr0", "v9", 'a man, "quoted"'],
        ["ret1", "msr1", "v0", "zwölf"],
    )
    _write_csv(
        annotations / "MSRVTT_JSFUSION_twins.csv",
        ["video_id", "sentence", "group"],
        ["v0", "left", "g0"],
        ["v1", "right", "g0"],
        ["v2", "up", "g1"],
    )
    sentences = [
        {"caption": f"v{video} says {number}", "video_id": f"v{video}", "sen_id": number}
        for number, video in ((7, 0), (1, 1), (5, 2), (2, 2), (3, 0), (9, 3), (4, 2), (8, 9))
    ]
    (annotations / "MSRVTT_data.json").write_text(json.dumps({"videos": [], "sentences": sentences}))
    for name in ("v0.mp4", "v0.avi", "v1.webm", "v2.AVI", "v9.mov", "v3.txt"):
        (videos / name).touch()
    return {"annotations": annotations, "videos": videos}


def _pairs(split):
    return [(record.video_id, record.text) for record in split.records]


def test_train_has_every_caption_in_the_order_of_list_and_sen_id(data):
    split = load_split("msrvtt", "train", **data)
    assert _pairs(split) == [
        ("v2", "v2 says 2"),
        ("v2", "v2 says 4"),
        ("v2", "v2 says 5"),
        ("v0", "v0 says 3"),
        ("v0", "v0 says 7"),
        ("v1", "v1 says 1"),
        ("v3", "v3 says 9"),
    ]
    assert split.video_index.tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert split.num_videos == 4
    assert [video.text for video in split.videos] == ["v2 says 2", "v0 says 3", "v1 says 1", "v3 says 9"]


def test_captions_can_be_limited(data):
    split = load_split("msrvtt", "train", max_captions_per_video=2, **data)
    texts = [record.text for record in split.records]
    assert texts == ["v2 says 2", "v2 says 4", "v0 says 3", "v0 says 7", "v1 says 1", "v3 says 9"]
    with pytest.raises(DataError, match="max_captions_per_video: got 0, wanted at least 1"):
        load_split("msrvtt", "train", max_captions_per_video=0, **data)


def test_val_is_cut_from_the_end_of_the_train_list(data):
    val = load_split("msrvtt", "val", num_val_videos=2, **data)
    assert _pairs(val) == [("v1", "v1 says 1"), ("v3", "v3 says 9")]
    train = load_split("msrvtt", "train", num_val_videos=2, **data)
    assert [video.video_id for video in train.videos] == ["v2", "v0"]


def test_val_can_have_its_own_list(data):
    val = load_split("msrvtt", "val", val_list="held_out.csv", num_val_videos=2, **data)
    assert _pairs(val) == [("v0", "v0 says 3"), ("v9", "v9 says 8")]
    train = load_split("msrvtt", "train", val_list="held_out.csv", num_val_videos=2, **data)
    assert [video.video_id for video in train.videos] == ["v2", "v1", "v3"]


@pytest.mark.parametrize("number", [0, 4, -1])
def test_val_needs_a_size_below_the_train_list(data, number):
    with pytest.raises(DataError, match=f"num_val_videos: got {number}, wanted a val_list, or a number below"):
        load_split("msrvtt", "val", num_val_videos=number, **data)


def test_galleries_have_a_record_a_row(data):
    test = load_split("msrvtt", "test", **data)
    assert _pairs(test) == [("v9", 'a man, "quoted"'), ("v0", "zwölf")]
    assert [record.group for record in test.records] == [None, None]
    twins = load_split("msrvtt", "mine", galleries={"mine": "MSRVTT_JSFUSION_twins.csv"}, **data)
    assert [record.group for record in twins.records] == ["g0", "g0", "g1"]


def test_the_shorter_train_list_is_an_option(data):
    _write_csv(data["annotations"] / "MSRVTT_train.7k.csv", ["video_id"], ["v1"], ["v2"])
    split = load_split("msrvtt", "train", train_list="MSRVTT_train.7k.csv", **data)
    assert [video.video_id for video in split.videos] == ["v1", "v2"]


@pytest.fixture
def captioning(data):
    """The same captions, with the splits that the file itself states."""
    path = data["annotations"] / "MSRVTT_data.json"
    splits = {"v2": "train", "v9": "test", "v0": "validate", "v1": "train", "v3": "test"}
    videos = [{"video_id": video_id, "split": split, "category": 3} for video_id, split in splits.items()]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"videos": videos}))
    return data


def test_captioning_has_every_caption_of_the_stated_splits(captioning):
    train = load_split("msrvtt_caption", "train", **captioning)
    assert _pairs(train) == [("v2", "v2 says 2"), ("v2", "v2 says 4"), ("v2", "v2 says 5"), ("v1", "v1 says 1")]
    val = load_split("msrvtt_caption", "val", val_list="validate", **captioning)
    assert _pairs(val) == [("v0", "v0 says 3"), ("v0", "v0 says 7")]
    test = load_split("msrvtt_caption", "test", **captioning)
    assert _pairs(test) == [("v9", "v9 says 8"), ("v3", "v3 says 9")]
    assert _pairs(load_split("msrvtt_caption", "val", num_val_videos=1, **captioning)) == [("v1", "v1 says 1")]
    own = load_split("msrvtt_caption", "mine", galleries={"mine": "validate"}, **captioning)
    assert own.records == val.records


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (None, "got the keys .'sentences', 'videos'., wanted an object with a list \"videos\""),
        ([], "split 'test': got no records"),
        ([{"video_id": "v9"}], r"videos\[0\]: got {'video_id': 'v9'}, wanted video_id and split"),
        ([{"video_id": 9, "split": "test"}], r"videos\[0\]: got .*, wanted video_id and split"),
        ([{"video_id": "v9", "split": "test"}] * 2, "got 'v9' 2 times"),
        ([{"video_id": "v8", "split": "test"}], "'v8': got no caption"),
    ],
)
def test_malformed_splits_are_named(data, videos, message):
    path = data["annotations"] / "MSRVTT_data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"videos": videos}))
    with pytest.raises(DataError, match=message):
        load_split("msrvtt_caption", "test", **data)


def test_video_files_are_found_whatever_their_extension(data):
    records = load_split("msrvtt", "train", **data).videos
    assert [record.path.name for record in records] == ["v2.AVI", "v0.mp4", "v1.webm", "v3.mp4"]
    assert not records[3].path.exists()  # missing: counted as unreadable when it is read


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("foo", {}, r"split: got 'foo', wanted one of train, val, test; .* galleries"),
        ("train", {"annotations": "/no/such"}, "annotations /no/such: got no such folder"),
        ("train", {"videos": "/no/such"}, "videos /no/such: got no such folder"),
        ("train", {"train_list": "absent.csv"}, r"absent\.csv: got no such file"),
        ("train", {"captions": "absent.json"}, r"absent\.json: got no such file"),
        ("mine", {"galleries": {"mine": "held_out.csv"}}, r"\['video_id', 'note'\], wanted .* 'sentence'"),
    ],
)
def test_wrong_options_are_named(data, split, options, message):
    with pytest.raises(DataError, match=message):
        load_split("msrvtt", split, **(data | options))


TRAIN, TEST, CAPTIONS = "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv", "MSRVTT_data.json"
BLANK = [{"caption": "&nbsp;", "video_id": video_id, "sen_id": 3} for video_id in ("v2", "v0", "v1", "v3")]


@pytest.mark.parametrize(
    ("name", "split", "content", "message"),
    [
        (TRAIN, "train", "id\nv0\n", r"columns \['id'\], wanted a column 'video_id'"),
        (TRAIN, "train", "", r"columns \[\], wanted a column 'video_id'"),
        (TRAIN, "train", "video_id\n", "got no records, wanted at least one"),
        (TRAIN, "train", "video_id\nv0\nv1\nv0\n", "'v0' 2 times"),
        (TRAIN, "train", "video_id\nv0,extra\n", "line 2: got another number of values"),
        (TRAIN, "train", "video_id\nv8\n", "'v8': got no caption"),
        (TRAIN, "train", b"video_id\n\xff\n", "bytes that are not UTF-8"),
        (TEST, "test", 'video_id,sentence\nv0,a\nv1,"open\n', "after line 2: got malformed CSV"),
        (TEST, "test", "video_id,sentence\nv0\n", "line 2: got another number of values"),
        (TEST, "test", "video_id,sentence\nv0,a\nv1, \n", r"line 3 \(.*'v1'\): got an empty caption"),
        (TEST, "test", "video_id,sentence\n../v0,a\n", r"line 2, video_id: got '\.\./v0', wanted a plain"),
        (TEST, "test", "video_id,sentence\n/etc/passwd,a\n", "got '/etc/passwd', wanted a plain file name"),
        (TEST, "test", "video_id,sentence\n..,a\n", r"got '\.\.', wanted a plain file name"),
        (TEST, "test", "video_id,sentence\nv7,a\n", "none of the split's videos"),
        (CAPTIONS, "train", "{", "malformed JSON"),
        (CAPTIONS, "train", "[" * 100_000, "malformed JSON"),
        (CAPTIONS, "train", '{"sentences": [], "sentences": []}', "the key 'sentences' 2 times in one object"),
        (CAPTIONS, "train", "[]", 'got a list, wanted an object with a list "sentences"'),
        (CAPTIONS, "train", '{"videos": []}', r"got the keys \['videos'\]"),
        (CAPTIONS, "train", '{"sentences": [{"caption": "a", "sen_id": 0}]}', r"sentences\[0\]: got"),
        (CAPTIONS, "train", json.dumps({"sentences": BLANK}), r"sen_id 3 \(.*'v2'\): got an empty caption"),
    ],
)
def test_malformed_annotations_are_named(data, name, split, content, message):
    (data["annotations"] / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_split("msrvtt", split, **data)


def test_a_byte_order_mark_is_not_part_of_the_first_column(data):
    (data["annotations"] / "MSRVTT_train.9k.csv").write_text("video_id\nv1\n", encoding="utf-8-sig")
    assert _pairs(load_split("msrvtt", "train", **data)) == [("v1", "v1 says 1")]


def test_an_unknown_data_set_is_named_with_the_choices():
    with pytest.raises(DataError, match=r"dataset: got 'msvtt', wanted one of activitynet, .*msrvtt_qa, .*; correct"):
        load_split("msvtt", "train")


def test_an_empty_option_is_the_data_sets_own(data):
    for split in ("train", "test"):
        empty = load_split("msrvtt", split, train_list="", val_list="", galleries={}, **data)
        assert empty == load_split("msrvtt", split, **data)
    assert GALLERIES.keys() == LOADERS.keys()
    assert all(galleries.keys() == {"test"} for galleries in GALLERIES.values())


def test_one_video_id_stands_for_one_clip():
    record = Record("a", "v", pathlib.Path("v.mp4"), start=0, end=3)
    assert Split("s", (record, record)).num_videos == 1
    with pytest.raises(DataError, match="got a second clip of that name"):
        Split("s", (record, Record("b", "v", pathlib.Path("v.mp4"), start=3, end=6)))


def test_a_split_has_records_with_text():
    with pytest.raises(DataError, match="split 's': got no records"):
        Split("s", ())
    with pytest.raises(DataError, match=r"record 0 \(split 's', video 'v'\): got an empty caption"):
        Split("s", (Record("\n", "v", pathlib.Path("v.mp4")),))


@needs_msrvtt
def test_the_distributed_files_are_read(tmp_path):
    (tmp_path / "video7020.mp4").touch()
    test = load_split("msrvtt", "test", annotations=MSRVTT, videos=tmp_path)
    assert len(test.records) == test.num_videos == 1000
    assert (test.records[0].video_id, test.records[0].text) == (
        "video9770",
        "a person is connecting something to system",
    )
    captions = tmp_path / "captions.json"
    rows = list(csv.DictReader((MSRVTT / "MSRVTT_train.9k.csv").open()))
    sentences = [{"caption": "a", "sen_id": 0, "video_id": row["video_id"]} for row in rows]
    captions.write_text(json.dumps({"sentences": sentences}))
    (tmp_path / "video0.mp4").touch()
    (tmp_path / "video9999.mp4").touch()
    options = {"captions": str(captions), "num_val_videos": 500}
    train, val = (msrvtt.load(MSRVTT, tmp_path, split, **options) for split in ("train", "val"))
    assert (train.num_videos, val.num_videos) == (8500, 500)
    ids = [{video.video_id for video in split.videos} for split in (train, val, test)]
    assert ids[0].isdisjoint(ids[1])
    assert (ids[0] | ids[1]).isdisjoint(ids[2])
