import json
import unicodedata

import numpy as np
import pytest

from hbi_jax.data.datasets import DataError, load_split
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer

ROWS = [
    {"video": "cats/one.mp4", "caption": "a cat, asleep", "split": "train"},
    {"video": "cats/one", "caption": "it wakes", "split": "train"},
    {"video": "two", "caption": "a dog", "split": "train"},
    {"video": "three.avi", "caption": "a cow", "split": "val"},
    {"video": "two.mp4", "caption": "a dog sits", "split": "test", "start": 0, "end": 1.5, "group": "dogs"},
    {"video": "two.mp4", "caption": "it runs", "split": "test", "start": 2, "group": "dogs"},
    {"video": "cats/none", "caption": "no file", "split": "test", "group": "cats"},
]
COLUMNS = ("video", "caption", "start", "end", "split", "group")


def _csv(rows, columns=COLUMNS):
    quoted = ([f'"{row.get(name, "")}"' for name in columns] for row in rows)
    return "\n".join(",".join(row) for row in [columns, *quoted]) + "\n"


def _json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(params=["csv", "jsonl"])
def data(folders, request):
    """The same rows in either form."""
    table = {"captions.csv": _csv(ROWS)} if request.param == "csv" else {"captions.jsonl": _json_lines(ROWS)}
    return folders(table, ("cats/one.mp4", "two.mp4", "old/three.avi", "notes.txt"))


def _pairs(split):
    return [(record.video_id, record.text) for record in split.records]


def test_a_row_is_a_record_of_its_split(data):
    train = load_split("folder", "train", **data)
    assert _pairs(train) == [("cats/one.mp4", "a cat, asleep"), ("cats/one.mp4", "it wakes"), ("two.mp4", "a dog")]
    assert train.video_index.tolist() == [0, 0, 1]
    val = load_split("folder", "val", val_list="val", **data)
    assert _pairs(val) == [("old/three.avi", "a cow")]


def test_a_row_can_be_about_a_clip_and_of_a_group(data):
    test = load_split("folder", "test", **data)
    assert _pairs(test) == [
        ("two.mp4 0-1.5 s", "a dog sits"),
        ("two.mp4 2- s", "it runs"),
        ("cats/none.mp4", "no file"),
    ]
    assert [(record.start, record.end) for record in test.records] == [(0, 1.5), (2, None), (None, None)]
    assert [record.group for record in test.records] == ["dogs", "dogs", "cats"]
    assert [record.path.exists() for record in test.records] == [True, True, False]


def test_clips_of_one_file_are_decoded_apart(data, write_video):
    write_video(data["videos"] / "two.mp4", [*[40] * 16, *[200] * 16], fps=8)
    split = load_split("folder", "test", **data)
    source = Source(split, Tokenizer(8), 16, 4, frames_per_second=2.0, max_unreadable_rate=0.5)
    frames, mask, readable = source.video_rows(np.arange(3, dtype=np.int32))
    assert readable.tolist() == [True, True, False]
    assert mask.sum(axis=1).tolist() == [4, 4, 0]
    np.testing.assert_allclose(frames[:2].astype(float).mean(axis=(1, 2, 3, 4)), [40, 200], atol=3)


def test_val_can_be_held_out(data):
    assert _pairs(load_split("folder", "val", num_val_videos=1, **data)) == [("two.mp4", "a dog")]
    assert load_split("folder", "train", num_val_videos=1, **data).num_videos == 1


def test_clips_of_one_video_are_held_out_together_however_it_is_spelled(folders):
    names = ("b.mp4", "cats/a.mp4", "a", "cats/a")
    rows = [{"video": name, "caption": f"row {number}", "split": "train"} for number, name in enumerate(names)]
    data = folders({"captions.csv": _csv(rows, ("video", "caption", "split"))}, ("cats/a.mp4", "b.mp4"))
    train, val = (load_split("folder", name, num_val_videos=1, **data) for name in ("train", "val"))
    assert _pairs(train) == [("b.mp4", "row 0")]
    assert _pairs(val) == [("cats/a.mp4", f"row {number}") for number in (1, 2, 3)]


def test_clips_that_differ_by_hundredths_late_in_a_long_video_are_two(folders):
    times = (("12345.61", "12349.97"), ("12345.64", "12350.03"))
    rows = [{"video": "a", "caption": "x", "split": "test", "start": start, "end": end} for start, end in times]
    data = folders({"captions.csv": _csv(rows, ("video", "caption", "split", "start", "end"))}, ("a.mp4",))
    found = load_split("folder", "test", **data)
    assert [record.video_id for record in found.records] == ["a.mp4 12345.61-12349.97 s", "a.mp4 12345.64-12350.03 s"]


def test_a_table_without_splits_is_a_gallery_alone(folders):
    rows = [{"video": "a", "caption": "one"}, {"video": "b/c", "caption": "two"}]
    data = folders({"captions.csv": _csv(rows, ("caption", "video"))}, ("a.mp4", "b/c.webm"))
    for name in ("test", "mine"):
        split = load_split("folder", name, galleries={name: name}, **data)
        assert _pairs(split) == [("a.mp4", "one"), ("b/c.webm", "two")]
    for name in ("train", "val"):
        with pytest.raises(DataError, match="line 2: got no split, wanted a column 'split' that says which rows"):
            load_split("folder", name, **data)


def _changed(**fields):
    return _json_lines([*ROWS[:5], ROWS[5] | fields])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_changed(video=3), r"captions\.jsonl, line 6: got .*, wanted video and caption \(text\)"),
        (_changed(caption=None), "line 6: got .*, wanted video and caption"),
        (_changed(caption=" "), "line 6 .*: got an empty caption"),
        (_changed(split=3), "line 6: got .*, wanted split and group, where there are any, as text"),
        (_changed(group=["a"]), "line 6: got .*, wanted split and group"),
        (_changed(start=-1), r"line 6, start: got -1, wanted seconds \(0 to 1000000\) or nothing"),
        (_changed(start=True), "line 6, start: got True, wanted seconds"),
        (_changed(start="soon"), "line 6, start: got 'soon', wanted seconds"),
        (_changed(end=1e300), r"line 6, end: got 1e\+300, wanted seconds"),
        (_changed(end=float("nan")), "line 6, end: got nan, wanted seconds"),
        (_changed(end=[1]), r"line 6, end: got \[1\], wanted seconds"),
        (_changed(end=2), "line 6: got start 2.0, end 2.0, wanted a clip that ends after it starts"),
        (_changed(start=None, end=0), "line 6: got start None, end 0.0, wanted a clip that ends after it starts"),
        ("[1]\n", r"line 1: got \[1\], wanted video and caption"),
        ("{\n", "line 1: got malformed JSON"),
        ("", "got no records"),
        (b"\xff", "bytes that are not UTF-8"),
        *(
            (_changed(video=video), "line 6, video_id: got .*, wanted a path within the folder of the videos")
            for video in ("../two", "/etc/passwd", "cats/../../two", "cats//one", "", ".", "..\\two", "a\0", "a" * 300)
        ),
    ],
)
def test_malformed_rows_are_named(folders, content, message):
    data = folders({"captions.jsonl": content}, ("cats/one.mp4", "two.mp4"))
    with pytest.raises(DataError, match=message):
        load_split("folder", "test", **data)


def test_malformed_tables_are_named(folders):
    data = folders({"captions.csv": "video,text\n"}, ("two.mp4",))
    with pytest.raises(DataError, match=r"columns \['video', 'text'\], wanted a column 'caption'"):
        load_split("folder", "test", **data)
    (data["annotations"] / "captions.csv").write_text(_csv([ROWS[4] | {"start": "1:20"}]))
    with pytest.raises(DataError, match="line 2, start: got '1:20', wanted seconds"):
        load_split("folder", "test", **data)
    (data["annotations"] / "captions.csv").unlink()
    with pytest.raises(DataError, match=r"captions\.csv: got no such file"):
        load_split("folder", "test", **data)


def test_links_to_folders_lead_nowhere(folders, tmp_path):
    """Links to files are the owner's; a linked folder could lead out of this one, or round in circles."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.mp4").touch()
    data = folders({"captions.jsonl": _json_lines([{"video": "out/secret", "caption": "a"}])}, ("two.mp4",))
    (data["videos"] / "out").symlink_to(outside)
    (data["videos"] / "self").symlink_to(data["videos"])
    with pytest.raises(DataError, match="none of the split's videos"):
        load_split("folder", "test", **data)
    (data["videos"] / "linked.mp4").symlink_to(outside / "secret.mp4")
    (data["annotations"] / "captions.jsonl").write_text(_json_lines([{"video": "linked", "caption": "a"}]))
    assert load_split("folder", "test", **data).records[0].path.exists()


def test_a_name_with_its_ending_is_that_file(folders):
    rows = [{"video": name, "caption": name} for name in ("a.avi", "a.mp4", "a", "b.mov")]
    data = folders({"captions.jsonl": _json_lines(rows)}, ("a.mp4", "a.avi", "b.mov.mp4"))
    found = [record.path.name for record in load_split("folder", "test", **data).records]
    assert found == ["a.avi", "a.mp4", "a.mp4", "b.mov.mp4"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_match_in_either_encoding(folders, tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    rows = [{"video": unicodedata.normalize(other, "été/café"), "caption": "a"}, {"video": " two ", "caption": "b"}]
    names = unicodedata.normalize(form, "été/café.mp4"), "two.mp4"
    found = load_split("folder", "test", **folders({"captions.jsonl": _json_lines(rows)}, names)).records
    assert [record.path for record in found] == [tmp_path / "videos" / name for name in names]
    assert all(record.path.exists() for record in found)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_are_read_in_every_encoding_with_a_mark(folders, encoding):
    rows = [{"video": "two", "caption": "ein Hündchen, müde 🐕", "split": "test"}]
    found = load_split("folder", "test", **folders({"captions.csv": _csv(rows).encode(encoding)}, ("two.mp4",)))
    assert _pairs(found) == [("two.mp4", "ein Hündchen, müde 🐕")]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("cp1252", r"line 2: got bytes that are not UTF-8 \(perhaps a Windows code page\), wanted text in UTF-8; save"),
        ("utf-16-le", r"got (zeros between its letters|bytes that are not UTF-8 \(perhaps UTF-16).*; save it as UTF-8"),
    ],
)
def test_other_encodings_are_told(folders, encoding, message):
    content = _csv([{"video": "two", "caption": "ein Hündchen"}]).encode(encoding)
    with pytest.raises(DataError, match=message):
        load_split("folder", "test", **folders({"captions.csv": content}, ("two.mp4",)))


def test_half_a_character_is_refused_with_its_row(folders):
    data = folders({"captions.jsonl": '{"video": "two", "caption": "a dog \\ud83d"}\n'}, ("two.mp4",))
    with pytest.raises(DataError, match=r"captions\.jsonl, line 1 .*half a character \(\\\\?ud83d\).*cut in two"):
        load_split("folder", "test", **data)


def test_splits_that_no_field_names_are_told_with_their_counts(folders, caplog):
    rows = [ROWS[4], *(ROWS[0] | {"split": split} for split in ("Train", "Train", "dev"))]
    data = folders({"captions.csv": _csv(rows)}, ("cats/one.mp4", "two.mp4"))
    (note,) = load_split("folder", "test", **data).notes
    assert note.subject == str(data["annotations"] / "captions.csv")
    assert note.text.startswith("rows that no field names and nothing reads: 2 of split 'Train', 1 of split 'dev'")
    assert note.text in caplog.text
    with pytest.raises(DataError, match=r"2 of split 'Train', 1 of split 'dev'.*correct the names of the splits"):
        load_split("folder", "train", **data)
