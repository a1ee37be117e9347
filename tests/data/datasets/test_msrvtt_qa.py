import json
import pathlib

import pytest

from hbi_jax.data.datasets import DataError, load_split
from hbi_jax.data.datasets.msrvtt_qa import question_type
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.tasks.answers.vocabulary import Vocabulary

MSRVTT = pathlib.Path(__file__).parents[3].parent / "shared" / "data" / "msrvtt"


def _question(video_id="v0", question="what is it?", answer="dog", **others):
    return {"answer": answer, "question": question, "video_id": video_id, **others}


def _write(path, *questions):
    path.write_text("".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions))


@pytest.fixture
def data(tmp_path):
    """Questions about two videos: three to train on, one for validation, two for the test."""
    annotations, videos = tmp_path / "annotations", tmp_path / "videos"
    annotations.mkdir()
    videos.mkdir()
    _write(
        annotations / "train.jsonl",
        _question("v1", "who sings?", "man", answer_type="who"),
        _question("v0", answer_type="thing", category=3),
        _question("v1", "how many men\u2028sing?", "one"),
    )
    _write(annotations / "val.jsonl", _question("v0", "is it red?"))
    (annotations / "test.json").write_text(json.dumps([_question("v1"), _question("v2", "Where?", "zoo")], indent=1))
    for name in ("v0.mp4", "v1.webm"):
        (videos / name).touch()
    return {"annotations": annotations, "videos": videos}


def _records(split):
    return [(record.video_id, record.text, record.answer, record.answer_type) for record in split.records]


def test_a_question_is_a_record(data):
    train = load_split("msrvtt_qa", "train", **data)
    assert _records(train) == [
        ("v1", "who sings?", "man", "who"),
        ("v0", "what is it?", "dog", "thing"),
        ("v1", "how many men\u2028sing?", "one", "how"),
    ]
    assert train.video_index.tolist() == [0, 1, 0]
    assert [video.path.name for video in train.videos] == ["v1.webm", "v0.mp4"]
    assert _records(load_split("msrvtt_qa", "val", **data)) == [("v0", "is it red?", "dog", "other")]


def test_a_list_is_read_where_there_are_no_lines(data):
    expected = [("v1", "what is it?", "dog", "what"), ("v2", "Where?", "zoo", "where")]
    test = load_split("msrvtt_qa", "test", **data)
    assert _records(test) == expected
    assert (test.records[1].path.name, test.records[1].path.exists()) == ("v2.mp4", False)
    own = load_split("msrvtt_qa", "mine", galleries={"mine": "test.json"}, **data)
    assert _records(own) == expected
    _write(data["annotations"] / "test.jsonl", _question("v0"))
    assert _records(load_split("msrvtt_qa", "test", **data)) == [("v0", "what is it?", "dog", "what")]


LINE = json.dumps(_question())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{LINE}\n\n{{\n", r"val\.jsonl, line 3: got malformed JSON"),
        (f"{LINE}\nanswer\n", r"val\.jsonl, line 2: got malformed JSON"),
        (f"{LINE}\n" + "[" * 100_000, r"val\.jsonl, line 2: got malformed JSON"),
        (f"{LINE}\n" + "1" * 5000, r"val\.jsonl, line 2: got malformed JSON"),
        (f"{LINE}\n[]", r"val\.jsonl, line 2: got \[\], wanted answer"),
        ('{"answer": "a", "answer": "b"}', "line 1: got malformed JSON .*'answer' 2 times"),
        (json.dumps({"answer": "a", "question": "b"}), "line 1: got .*, wanted answer"),
        (json.dumps(_question(answer=3)), "line 1: got .*, wanted answer"),
        (json.dumps(_question(answer=" ")), "line 1: got .*, wanted answer .not empty"),
        (json.dumps(_question(video_id=3)), "line 1: got .*, wanted answer"),
        (json.dumps(_question(answer_type=3)), "line 1: got .*, wanted answer"),
        (json.dumps(_question(video_id="../v0")), r"line 1, video_id: got '\.\./v0', wanted a plain file name"),
        (json.dumps(_question(question="&nbsp;")), r"line 1 \(split 'val', video 'v0'\): got an empty question"),
        (json.dumps(_question(video_id="v7")), "none of the split's videos"),
        ("\n", "split 'val': got no records"),
        (b"\xff", "bytes that are not UTF-8"),
    ],
)
def test_malformed_lines_are_named(data, content, message):
    (data["annotations"] / "val.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_split("msrvtt_qa", "val", **data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"questions": []}, r"test\.json: got a dict, wanted a list of questions"),
        ([_question(), {}], r"test\.json, \[1\]: got \{\}, wanted answer"),
    ],
)
def test_malformed_lists_are_named(data, content, message):
    (data["annotations"] / "test.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_split("msrvtt_qa", "test", **data)


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("twins", {}, "split: got 'twins', wanted one of train, val, test"),
        ("train", {"train_list": "absent.jsonl"}, r"absent\.jsonl: got no such file"),
        ("train", {"num_val_videos": 3}, "num_val_videos: got 3, wanted 0"),
        ("train", {"annotations": "/no/such"}, "annotations /no/such: got no such folder"),
    ],
)
def test_wrong_options_are_named(data, split, options, message):
    with pytest.raises(DataError, match=message):
        load_split("msrvtt_qa", split, **(data | options))


@pytest.mark.skipif(not MSRVTT.is_dir(), reason="the MSRVTT-QA annotations are not here")
def test_the_distributed_files_are_read(tmp_path):
    (tmp_path / "video6513.mp4").touch()
    split = load_split("msrvtt_qa", "val", annotations=MSRVTT, videos=tmp_path)
    assert (len(split.records), split.num_videos) == (12_278, 497)
    vocabulary = Vocabulary.read(MSRVTT / "train_ans2label.json")
    known = sum(vocabulary.index(record.answer) >= 0 for record in split.records)
    assert (len(vocabulary), known) == (1500, 11_419)  # 93.0 %
    assert all(question_type(record.text) == record.answer_type for record in split.records)
    # The longest question has 30 tokens.
    assert len(Source(split, Tokenizer(30), 32, 12).truncated) == 0
    assert len(Source(split, Tokenizer(29), 32, 12).truncated) > 0
