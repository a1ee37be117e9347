import json

import pytest

from hbi_jax.data.datasets import DataError, load_split


def _question(number="a_1", name="a", question="what is it?"):
    return {"video_name": name, "question": question, "question_id": number}


def _answer(number="a_1", answer="dog", kind=5):
    return {"answer": answer, "type": kind, "question_id": number}


@pytest.fixture
def data(tmp_path):
    """Questions about three videos: one called by ActivityNet's id, one by YouTube's, one that is not there."""
    annotations, videos = tmp_path / "annotations", tmp_path / "videos"
    annotations.mkdir()
    videos.mkdir()
    files = {
        "train_q.json": [_question("b_1", "b", "is he sad?"), _question()],
        "train_a.json": [_answer("a_1"), _answer("b_1", "no", 3)],
        "val_q.json": [_question()],
        "val_a.json": [_answer()],
        "test_q.json": [_question("c_1", "c"), _question("b_2", "b")],
        "test_a.json": [_answer("c_1", "run", 0), _answer("b_2", "2", 7), _answer("d_1")],
    }
    for name, content in files.items():
        (annotations / name).write_text(json.dumps(content))
    for name in ("v_a.mp4", "b.mkv"):
        (videos / name).touch()
    return {"annotations": annotations, "videos": videos}


def _records(split):
    return [(record.video_id, record.text, record.answer, record.answer_type) for record in split.records]


def test_questions_are_joined_with_their_answers(data):
    train = load_split("activitynet_qa", "train", **data)
    assert _records(train) == [
        ("v_b", "is he sad?", "no", "yes or no"),
        ("v_a", "what is it?", "dog", "object"),
    ]
    assert [video.path.name for video in train.videos] == ["b.mkv", "v_a.mp4"]
    assert train.records[1].source.endswith("train_q.json, [1]")
    test = load_split("activitynet_qa", "test", **data)
    assert [(record.answer, record.answer_type) for record in test.records] == [("run", "motion"), ("2", "number")]
    assert [video.path.exists() for video in test.videos] == [False, True]


def test_lines_are_read_where_there_is_no_list(data):
    for name, entry in (("own_q", _question()), ("own_a", _answer())):
        (data["annotations"] / f"{name}.jsonl").write_text(json.dumps(entry))
    own = load_split("activitynet_qa", "own", galleries={"own": "own_q.json"}, **data)
    assert _records(own) == [("v_a", "what is it?", "dog", "object")]


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        ({}, [], r"val_q\.json: got a dict, wanted a list of questions or answers"),
        ([_question()], "dog", r"val_a\.json: got a str, wanted a list of questions or answers"),
        ([_question(), 3], [_answer()], r"val_q\.json, \[1\]: got 3, wanted an object with a question_id"),
        ([_question(3)], [_answer(3)], r"val_q\.json, \[0\]: got .*, wanted an object with a question_id .text"),
        ([_question()], [_answer(), {}], r"val_a\.json, \[1\]: got .*, wanted an object with a question_id"),
        (
            [_question(), _question(name="b")],
            [_answer()],
            r"val_q\.json, \[1\]: got question_id 'a_1' once more, after .*val_q\.json, \[0\], wanted each once",
        ),
        (
            [_question()],
            [_answer(), _answer(answer="cat")],
            r"val_a\.json, \[1\]: got question_id 'a_1' once more, after .*val_a\.json, \[0\], wanted each once",
        ),
        ([_question()], [_answer("a_2")], r"val_q\.json, \[0\]: got no answer to question 'a_1' in .*val_a\.json"),
        ([_question()], [_answer(answer=" ")], r"\[0\]: got .*, wanted answer .not empty., question and video_name"),
        ([_question()], [_answer(answer=1)], r"\[0\]: got .*, wanted answer"),
        ([_question()], [_answer(kind=9)], r"\[0\]: got .*, wanted answer .* type .0 to 8"),
        ([_question()], [_answer(kind=True)], r"\[0\]: got .*, wanted answer"),
        ([_question()], [_answer(kind=[0])], r"\[0\]: got .*, wanted answer"),
        ([_question(name=None)], [_answer()], r"\[0\]: got .*, wanted answer"),
        ([_question(name="/a")], [_answer()], r"\[0\], video_id: got 'v_/a', wanted a plain file name"),
        ([_question(question="")], [_answer()], r"\[0\] .split 'val', video 'v_a'.: got an empty question"),
        ([_question(name="d")], [_answer()], "none of the split's videos"),
        ([], [], "split 'val': got no records"),
    ],
)
def test_malformed_entries_are_named(data, questions, answers, message):
    (data["annotations"] / "val_q.json").write_text(json.dumps(questions))
    (data["annotations"] / "val_a.json").write_text(json.dumps(answers))
    with pytest.raises(DataError, match=message):
        load_split("activitynet_qa", "val", **data)


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("twins", {}, "split: got 'twins', wanted one of train, val, test"),
        ("train", {"train_list": "train.json"}, r"file of questions: got 'train\.json', wanted a name that ends on _q"),
        ("train", {"train_list": "absent_q.json"}, r"absent_q\.json: got no such file"),
        ("train", {"num_val_videos": 3}, "num_val_videos: got 3, wanted 0"),
    ],
)
def test_wrong_options_are_named(data, split, options, message):
    with pytest.raises(DataError, match=message):
        load_split("activitynet_qa", split, **(data | options))
