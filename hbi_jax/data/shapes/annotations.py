"""Builds the annotation files of a world in the layouts of MSR-VTT and MSRVTT-QA, listed in docs/shapes.md."""

import csv
import io
import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

from hbi_jax.data.shapes.config import WorldConfig
from hbi_jax.data.shapes.grammar import Sentence, draw_paraphrases
from hbi_jax.data.shapes.plan import SPLITS
from hbi_jax.data.shapes.questions import ask_about, balance
from hbi_jax.data.shapes.scenes import Scene
from hbi_jax.data.shapes.truth import TRUTH_FILE, scene_truth, to_record

ANNOTATION_FILES = (
    "MSRVTT_train.9k.csv",
    "MSRVTT_val.csv",
    "MSRVTT_JSFUSION_test.csv",
    "MSRVTT_JSFUSION_twins.csv",
    "MSRVTT_data.json",
    TRUTH_FILE,
    *(f"{split}.jsonl" for split in SPLITS),
    "train_ans2label.json",
)
# MSR-VTT calls "val" "validate". It has no near-twins.
_MSRVTT_SPLITS = {"train": "train", "val": "validate", "test": "test", "twins": "twins"}


def describe(scene: Scene, config: WorldConfig) -> tuple[Sentence, ...]:
    """Returns a scene's paraphrases. The first mentions everything and is the query in retrieval tests."""
    return draw_paraphrases(scene.events, scene.rng("captions", config), config.captions_per_video)


def annotation_files(scenes: tuple[Scene, ...], config: WorldConfig) -> dict[str, bytes]:
    """Returns the content of each of `ANNOTATION_FILES`, keyed by name."""
    captions = {scene.video_id: describe(scene, config) for scene in scenes}
    by_split = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    train_questions, question_files = _question_files(by_split, config)
    labels = {answer: label for label, answer in enumerate(sorted({q["answer"] for q in train_questions}))}
    files = {
        "MSRVTT_train.9k.csv": _csv(("video_id",), ([s.video_id] for s in by_split["train"])),
        "MSRVTT_val.csv": _csv(("video_id",), ([s.video_id] for s in by_split["val"])),
        "MSRVTT_JSFUSION_test.csv": _sentence_csv(by_split["test"], captions, with_group=False),
        "MSRVTT_JSFUSION_twins.csv": _sentence_csv(by_split["twins"], captions, with_group=True),
        "MSRVTT_data.json": json.dumps(_msrvtt_data(scenes, captions), indent=0),
        TRUTH_FILE: _json_lines(to_record(scene_truth(s, captions[s.video_id][0])) for s in scenes),
        **question_files,
        "train_ans2label.json": json.dumps(labels),
    }
    return {name: content.encode() for name, content in files.items()}


def _msrvtt_data(scenes: Iterable[Scene], captions: Mapping[str, tuple[Sentence, ...]]) -> dict[str, Any]:
    pairs = [(sentence.text, scene.video_id) for scene in scenes for sentence in captions[scene.video_id]]
    return {
        "videos": [{"video_id": s.video_id, "split": _MSRVTT_SPLITS[s.split]} for s in scenes],
        "sentences": [
            {"caption": caption, "video_id": video_id, "sen_id": number}
            for number, (caption, video_id) in enumerate(pairs)
        ],
    }


def _sentence_csv(scenes: Iterable[Scene], captions: Mapping[str, tuple[Sentence, ...]], with_group: bool) -> str:
    header = ("key", "vid_key", "video_id", "sentence") + (("group",) if with_group else ())
    rows = []
    for number, scene in enumerate(scenes):
        row = [
            f"ret{number}",
            scene.video_id.replace("video", "msr"),
            scene.video_id,
            captions[scene.video_id][0].text,
        ]
        rows.append([*row, scene.group] if with_group else row)
    return _csv(header, rows)


def _question_files(
    by_split: Mapping[str, list[Scene]], config: WorldConfig
) -> tuple[list[dict[str, str]], dict[str, str]]:
    files, train = {}, []
    for split, scenes in by_split.items():
        questions = tuple(question for scene in scenes for question in ask_about(scene, config))
        kept = balance(questions, random.Random(f"{config.seed}/{split}/questions"))
        records = [question.record() for question in kept]
        files[f"{split}.jsonl"] = _json_lines(records)
        if split == "train":
            train = records
    return train, files


def _csv(header: tuple[str, ...], rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _json_lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
