import json

import pytest

from hbi_jax.data.datasets import DataError, load_split


def _question(video_id=1, question="what is it?", answer="dog", **others):
    return {"answer": answer, "id": 7, "question": question, "video_id": video_id, **others}


@pytest.fixture
def data(tmp_path):
    """Questions about three clips: one called by its number, one as the mapping says, one that is not there."""
    annotations, videos = tmp_path / "annotations", tmp_path / "videos"
    annotations.mkdir()
    videos.mkdir()
    (annotations / "train_qa.json").write_text(json.dumps([_question(2, "who sings?", "man"), _question(1)]))
    (annotations / "val_qa.json").write_text(json.dumps([_question()]))
    (annotations / "test_qa.json").write_text(json.dumps([_question(3, "Is it red?", "yes"), _question("vid2")]))
    (annotations / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1\nxyz_0_9 vid2\r\n\nabc_1_2 vid3\n")
    for name in ("vid1.avi", "xyz_0_9.avi"):
        (videos / name).touch()
    return {"annotations": annotations, "videos": videos}


def _records(split):
    return [(record.video_id, record.text, record.answer, record.answer_type) for record in split.records]


def test_a_question_is_a_record(data):
    train = load_split("msvd_qa", "train", **data)
    assert _records(train) == [("vid2", "who sings?", "man", "who"), ("vid1", "what is it?", "dog", "what")]
    assert [video.path.name for video in train.videos] == ["xyz_0_9.avi", "vid1.avi"]
    test = load_split("msvd_qa", "test", **data)
    assert _records(test) == [("vid3", "Is it red?", "yes", "other"), ("vid2", "what is it?", "dog", "what")]
    assert [(video.path.name, video.path.exists()) for video in test.videos] == [
        ("vid3.mp4", False),
        ("xyz_0_9.avi", True),
    ]


def test_lines_are_read_where_there_is_no_list_and_clips_by_their_name(data):
    (data["annotations"] / "val_qa.json").unlink()
    lines = [json.dumps(_question("-4wsuPCjDBc_5_15")), json.dumps(_question(1))]
    (data["annotations"] / "val_qa.jsonl").write_text("\n".join(lines))
    val = load_split("msvd_qa", "val", **data)
    assert [(record.video_id, record.path.name) for record in val.records] == [
        ("-4wsuPCjDBc_5_15", "vid1.avi"),
        ("vid1", "vid1.avi"),
    ]
    assert val.records[1].source.endswith("val_qa.jsonl, line 2")


def test_files_called_by_their_number_need_no_mapping(data):
    (data["annotations"] / "youtube_mapping.txt").unlink()
    (video,) = load_split("msvd_qa", "val", **data).videos
    assert video.path.name == "vid1.avi"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"train": []}, r"val_qa\.json: got a dict, wanted a list of questions"),
        ([_question(), 3], r"val_qa\.json, \[1\]: got 3, wanted answer .not empty. and question"),
        ([_question(answer=None)], r"\[0\]: got .*, wanted answer"),
        ([_question(answer="\t")], r"\[0\]: got .*, wanted answer .not empty"),
        ([_question(video_id=True)], r"\[0\]: got .*, wanted answer .* and video_id .a number"),
        ([_question(video_id=1.0)], r"\[0\]: got .*, wanted answer .* and video_id .a number"),
        ([{"answer": "a", "question": "b"}], r"\[0\]: got .*, wanted answer"),
        ([_question(video_id="../vid1")], r"\[0\], video_id: got '\.\./vid1', wanted a plain file name"),
        ([_question(video_id=-1)], "none of the split's videos"),
        ([_question(question=" ")], r"\[0\] .split 'val', video 'vid1'.: got an empty question"),
        ([], "split 'val': got no records"),
    ],
)
def test_malformed_entries_are_named(data, entries, message):
    (data["annotations"] / "val_qa.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=message):
        load_split("msvd_qa", "val", **data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abc", r"youtube_mapping\.txt, line 2: got 'abc', wanted a name and"),
        ("abc vid2 vid3", "line 2: got 'abc vid2 vid3', wanted a name and"),
        ("abc vid", "line 2: got 'abc vid', wanted a name and"),
        ("other vid1", "line 2: got 'vid1' once more, wanted each clip once"),
        ("name vid3", "line 2: got 'name' once more, wanted each clip once"),
        ("../up vid2", r"youtube_mapping\.txt, 'vid2', video_id: got '\.\./up', wanted a plain file name"),
    ],
)
def test_a_malformed_mapping_is_named(data, line, message):
    (data["annotations"] / "youtube_mapping.txt").write_text(f"name vid1\n{line}\n")
    with pytest.raises(DataError, match=message):
        load_split("msvd_qa", "train", **data)


def test_questions_are_not_held_out(data):
    with pytest.raises(DataError, match="num_val_videos: got 3, wanted 0"):
        load_split("msvd_qa", "train", num_val_videos=3, **data)
