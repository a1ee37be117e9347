import collections
import csv
import json

import numpy as np

from hbi_jax.data import shapes
from hbi_jax.data.datasets import msrvtt, msrvtt_qa
from hbi_jax.data.pipeline import train_batches
from hbi_jax.data.shapes.annotations import ANNOTATION_FILES
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.tasks.answers.vocabulary import Vocabulary


def _rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_lists_name_every_video_once(tiny_world):
    names = ("MSRVTT_train.9k", "MSRVTT_val", "MSRVTT_JSFUSION_test", "MSRVTT_JSFUSION_twins")
    ids = [[row["video_id"] for row in _rows(tiny_world / f"{name}.csv")] for name in names]
    assert [len(split) for split in ids] == [8, 2, 6, 8]
    assert [video_id for split in ids for video_id in split] == [f"video{n}" for n in range(24)]
    assert {path.stem for path in (tiny_world / "videos").iterdir()} == {f"video{n}" for n in range(24)}
    assert {path.name for path in tiny_world.iterdir()} == {*ANNOTATION_FILES, "manifest.json", "videos"}


def test_test_sentences_are_the_columns_of_msrvtt(tiny_world):
    truths = shapes.load_ground_truth(tiny_world)
    rows = _rows(tiny_world / "MSRVTT_JSFUSION_test.csv")
    assert list(rows[0]) == ["key", "vid_key", "video_id", "sentence"]
    assert rows[1]["key"] == "ret1"
    assert rows[1]["vid_key"] == rows[1]["video_id"].replace("video", "msr") == "msr11"
    for row in rows + _rows(tiny_world / "MSRVTT_JSFUSION_twins.csv"):
        assert shapes.parse_caption(row["sentence"]) == truths[row["video_id"]].events
        assert row["sentence"] == truths[row["video_id"]].caption
    twins = _rows(tiny_world / "MSRVTT_JSFUSION_twins.csv")
    assert list(twins[0]) == ["key", "vid_key", "video_id", "sentence", "group"]
    assert collections.Counter(row["group"] for row in twins) == {"0": 4, "1": 4}


def test_caption_file(tiny_world):
    data = json.loads((tiny_world / "MSRVTT_data.json").read_text())
    truths = shapes.load_ground_truth(tiny_world)
    assert collections.Counter(video["split"] for video in data["videos"]) == {
        "train": 8,
        "validate": 2,
        "test": 6,
        "twins": 8,
    }
    assert [sentence["sen_id"] for sentence in data["sentences"]] == list(range(24 * 5))
    by_video = collections.defaultdict(list)
    for sentence in data["sentences"]:
        by_video[sentence["video_id"]].append(sentence["caption"])
    for video_id, captions in by_video.items():
        assert len(set(captions)) == 5
        assert captions[0] == truths[video_id].caption
        for caption in captions:
            events = zip(shapes.parse_caption(caption), truths[video_id].events, strict=True)
            assert all(said.agrees(true) for said, true in events)


def test_questions_are_the_lines_of_msrvtt_qa(tiny_world):
    truths = shapes.load_ground_truth(tiny_world)
    labels = json.loads((tiny_world / "train_ans2label.json").read_text())
    answers = set()
    for split in ("train", "val", "test", "twins"):
        lines = (tiny_world / f"{split}.jsonl").read_text().splitlines()
        assert len(lines) >= sum(truth.split == split for truth in truths.values())
        for line in map(json.loads, lines):
            assert list(line) == ["answer", "question", "video_id", "answer_type"]
            assert truths[line["video_id"]].split == split
            answers |= {line["answer"]} if split == "train" else set()
    assert labels == {answer: number for number, answer in enumerate(sorted(answers))}


def test_the_msrvtt_loader_reads_it(tiny_world):
    train = msrvtt.load(tiny_world, tiny_world / "videos", "train", val_list="MSRVTT_val.csv")
    galleries = {"twins": "MSRVTT_JSFUSION_twins.csv"}
    twins = msrvtt.load(tiny_world, tiny_world / "videos", "twins", galleries=galleries)
    assert len(train.records) == 8 * 5
    assert all(record.path.is_file() for record in train.records)
    assert [record.group for record in twins.records] == ["0"] * 4 + ["1"] * 4


def test_the_msrvtt_qa_loader_reads_it(tiny_world):
    galleries = {"test": "test.jsonl", "twins": "twins.jsonl"}
    read = {
        split: msrvtt_qa.load(tiny_world, tiny_world / "videos", split, galleries=galleries)
        for split in ("train", "val", *galleries)
    }
    for split, questions in read.items():
        lines = [json.loads(line) for line in (tiny_world / f"{split}.jsonl").read_text().splitlines()]
        found = [(r.answer, r.text, r.video_id, r.answer_type) for r in questions.records]
        assert found == [(q["answer"], q["question"], q["video_id"], q["answer_type"]) for q in lines]
        assert all(record.path.is_file() for record in questions.records)
    vocabulary = Vocabulary.read(tiny_world / "train_ans2label.json")
    answers = [record.answer for record in read["train"].records]
    assert set(vocabulary.answers) == set(Vocabulary.build(answers).answers) == set(answers)

    # A question as rows of a model: its words, and the frames of its video.
    source = Source(read["val"], Tokenizer(24), image_size=16, max_frames=4)
    assert len(source.truncated) == 0
    with train_batches(source, batch_size=4, seed=0, num_threads=0) as batches:
        batch = next(batches)
    assert batch.frame_mask.any(axis=1).all()
    for token_ids, record in zip(batch.token_ids, batch.record_index, strict=True):
        assert Tokenizer(24).decode(token_ids).replace(" ?", "?") == read["val"].records[record].text


def test_boxes_are_compact_but_whole(tiny_world):
    line = json.loads((tiny_world / "ground_truth.jsonl").read_text().splitlines()[0])
    truth = shapes.load_ground_truth(tiny_world)["video0"]
    for actor, boxes in zip(line["actors"], truth.boxes, strict=True):
        changes = 1 + (np.abs(np.diff(boxes, axis=0)).max(-1) > 0).sum()
        assert len(actor["boxes"]) == changes
