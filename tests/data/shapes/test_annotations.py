import collections
import csv
import json

import numpy as np

from hbi_jax.data import shapes
from hbi_jax.data.datasets import msrvtt
from hbi_jax.data.shapes.annotations import ANNOTATION_FILES


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
    twins = msrvtt.load(tiny_world, tiny_world / "videos", "twins")
    assert len(train.records) == 8 * 5
    assert all(record.path.is_file() for record in train.records)
    assert [record.group for record in twins.records] == ["0"] * 4 + ["1"] * 4


def test_boxes_are_compact_but_whole(tiny_world):
    line = json.loads((tiny_world / "ground_truth.jsonl").read_text().splitlines()[0])
    truth = shapes.load_ground_truth(tiny_world)["video0"]
    for actor, boxes in zip(line["actors"], truth.boxes, strict=True):
        changes = 1 + (np.abs(np.diff(boxes, axis=0)).max(-1) > 0).sum()
        assert len(actor["boxes"]) == changes
