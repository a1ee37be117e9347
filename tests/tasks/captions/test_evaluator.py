"""The table of captions and what it is compared with, by hand."""

import pathlib

import pytest

from hbi_jax.data.datasets import Record, Split
from hbi_jax.data.source import Source
from hbi_jax.data.text import Tokenizer
from hbi_jax.report.report import Column
from hbi_jax.tasks.captions import evaluator as module
from hbi_jax.tasks.captions.evaluator import Method, caption_table, references_of, without_a_model
from hbi_jax.tasks.captions.metrics import NAMES, CaptionScores

REFERENCES = {"a": ["a red circle spins", "a red disc rotates"], "b": ["a blue star grows"]}


def scored(captions, references):
    """In the place of the scores: how many captions are their first reference."""
    right = sum(caption == references[video][0] for video, caption in captions.items())
    return CaptionScores({"CIDEr": 0.126 + right, "BLEU-4": 1e-9}, dict.fromkeys(("METEOR", "ROUGE-L"), "of $"), "us")


def test_the_references_of_a_video_are_all_its_texts():
    records = [Record(text, video, pathlib.Path(f"{video}.mp4")) for video in "ab" for text in REFERENCES[video]]
    source = Source(Split("test", tuple(records[::-1])), Tokenizer(8), image_size=8, max_frames=2)
    assert references_of(source) == {video: texts[::-1] for video, texts in REFERENCES.items()}


def test_what_scores_mean_without_a_model():
    training = ["b", "a", "c", "b", "c"]
    methods = without_a_model(REFERENCES, training)
    frequent, reference = methods["most frequent training caption"], methods["a reference"]
    assert (frequent.captions, frequent.references) == ({"a": "b", "b": "b"}, REFERENCES)
    assert (reference.captions, reference.references) == ({"a": "a red circle spins"}, {"a": ["a red disc rotates"]})
    assert frequent.note.startswith("Most frequent training caption: ")
    assert reference.note.startswith("A reference: ")
    assert list(without_a_model({"b": ["one"]}, training)) == ["most frequent training caption"]
    assert list(without_a_model(REFERENCES, [])) == ["a reference"]


def test_the_table_has_a_row_for_each_method(monkeypatch):
    monkeypatch.setattr(module, "caption_scores", scored)
    methods = {
        "model": Method({"a": "a red circle spins", "b": " "}, REFERENCES),
        "other": Method({"b": "a blue star grows"}, REFERENCES, "Other: by hand."),
    }
    first = Column("first", "First: of all.")
    table = caption_table("Captions", methods, lambda captions: {first: 100 / len(captions)})
    assert table.columns == [*(Column(f"{name}, %") for name in NAMES), Column("first, %", "First: of all.")]
    assert table.rows == [
        ("model", [None, None, None, 0.0, None, None, 1.13, 50.0], ""),
        ("other", [None, None, None, 0.0, None, None, 1.13, 100.0], "Other: by hand."),
    ]
    assert table.headline == "**Captions**: CIDEr **1.1**, BLEU-4 **0.0**, first **50.0 %** over 2 videos."
    assert table.note == (
        "2 videos with 3 references; split into words by us; 1 of the captions are empty and score 0; not run: METEOR, "
        "ROUGE-L, because of $."
    )


def test_where_nothing_can_be_scored_the_table_says_so(monkeypatch):
    monkeypatch.setattr("hbi_jax.tasks.captions.metrics.is_installed", lambda: False)
    table = caption_table("Captions", {"model": Method({"b": "a star"}, REFERENCES)})
    assert table.rows == [("model", [None] * len(NAMES), "")]
    assert table.headline == "**Captions**: no score was computed over 1 videos."
    assert table.note.endswith("CIDEr, because pycocoevalcap is not installed: pip install hbi_jax[caption].")


def test_a_video_without_reference_is_named():
    with pytest.raises(ValueError, match="none of video 'c'"):
        caption_table("Captions", {"model": Method({"c": "a star"}, REFERENCES)})
