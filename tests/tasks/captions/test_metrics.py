"""Scores of captions: worked by hand, in known cases, and where Java or the package is missing."""

import math
import os
import re
import stat
import subprocess

import pytest

from hbi_jax.tasks.captions import metrics as module
from hbi_jax.tasks.captions.metrics import NAMES, PENN, PLAIN, caption_scores

REFERENCES = {
    "a": ["A small red circle spins.", "a red disc turns around"],
    "b": ["a blue star grows", "the star gets bigger"],
    "c": ["a white ring disappears", "a ring vanishes"],
}
RIGHT = {video: texts[0] for video, texts in REFERENCES.items()}

# By a shell, which may not find it. A Mac without Java has a program of that name, which says so.
NO_JAVA = subprocess.run("java -version", shell=True, capture_output=True, check=False).returncode != 0
needs_java = pytest.mark.skipif(NO_JAVA, reason="needs Java")


def scores(captions, references, **options):
    return caption_scores(captions, references, **{"java": False, **options}).values


def test_a_caption_that_is_a_reference_has_all_of_bleu_and_rouge():
    found = caption_scores(RIGHT, REFERENCES, java=False)
    assert set(found.values) == set(NAMES) - {"METEOR"} == set(NAMES) - set(found.not_run)
    assert found.tokenizer == PLAIN
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert found.values[name] == pytest.approx(100, abs=1e-4)
    # Every reference of a video counts for CIDEr: one of two that are unlike is half.
    assert 400 < found.values["CIDEr"] < 1000


def test_bleu_by_hand():
    """7 of 8 words and 4 of 7 pairs occur in the reference; 8 words against 9 cost exp(1 - 9 / 8)."""
    said = {"a": "the dog runs over the green big field"}
    right = {"a": ["the dog runs quickly over the big green field"]}
    penalty = math.exp(1 - 9 / 8)
    found = scores(said, right)
    assert found["BLEU-1"] == pytest.approx(100 * penalty * 8 / 8, abs=1e-4)
    # the-dog, dog-runs, over-the are in the reference; runs-over, the-green, green-big, big-field are not.
    assert found["BLEU-2"] == pytest.approx(100 * penalty * math.sqrt(8 / 8 * 3 / 7), abs=1e-4)
    # A word counts as often as the reference that has it most often.
    found = scores({"a": "the the the the"}, {"a": ["the cat and the dog", "the cat sat down"]})
    assert found["BLEU-1"] == pytest.approx(100 * 2 / 4, abs=1e-4)


def test_rouge_by_hand():
    """The longest common subsequence "a circle spins" has 3 of 4 words and 3 of 5; beta is 1.2."""
    found = scores({"a": "a red circle spins"}, {"a": ["a circle slowly spins around", "nothing"]})
    precision, recall = 3 / 4, 3 / 5
    assert found["ROUGE-L"] == pytest.approx(100 * (1 + 1.44) * precision * recall / (recall + 1.44 * precision))


def test_cider_by_hand():
    """Two videos, captions of one word: of 1 to 4 words only single ones count, each in one video of two."""
    right = {"a": ["circle", "disc"], "b": ["star"]}
    # Cosine 1 with one of two references, 0 with the other; the mean over four lengths; times ten; b: 1.
    assert scores({"a": "circle", "b": "star"}, right)["CIDEr"] == pytest.approx(100 * (10 / 4 / 2 + 10 / 4) / 2)
    # What every video is called says nothing, and so does a video alone.
    assert scores({"a": "ring", "b": "ring"}, {"a": ["ring"], "b": ["ring"]})["CIDEr"] == 0
    assert scores({"a": "circle"}, right)["CIDEr"] == 0


def test_case_punctuation_and_blanks_count_for_nothing():
    said = {"a": "a small  RED circle\nspins", "b": "A blue star grows!", "c": "(a white ring disappears)"}
    assert scores(said, REFERENCES) == scores(RIGHT, REFERENCES)


def test_empty_captions_score_nothing():
    assert set(scores(dict.fromkeys(REFERENCES, ""), REFERENCES).values()) == {0.0}
    some = scores({**RIGHT, "a": ""}, REFERENCES)
    assert 0 < some["BLEU-4"] < 100
    assert some["ROUGE-L"] == pytest.approx(100 * 2 / 3)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="0 captions"):
        caption_scores({}, REFERENCES)
    with pytest.raises(ValueError, match="none of video 'd' and 1 others, wanted one or more"):
        caption_scores({"a": "x", "d": "x", "e": "x"}, {**REFERENCES, "e": []})


def test_without_the_package_nothing_is_run_and_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(module, "is_installed", lambda: False)
    found = caption_scores(RIGHT, REFERENCES)
    assert (found.values, found.tokenizer) == ({}, "")
    assert found.not_run == dict.fromkeys(NAMES, "pycocoevalcap is not installed: pip install hbi_jax[caption]")


@pytest.mark.parametrize("script", [None, "exit 3", "cat"])
def test_without_java_meteor_is_not_run_and_the_others_are(monkeypatch, tmp_path, script):
    """No Java at all; one that does not start; one that does something else."""
    if script is not None:
        fake = tmp_path / "java"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}" if script else str(tmp_path))
    monkeypatch.setattr(module, "_LAST_WORDS", 0.1)
    module._meteor.cache_clear()
    found = caption_scores(RIGHT, REFERENCES)
    assert set(found.not_run) == {"METEOR"}
    assert "Java" in found.not_run["METEOR"]
    assert found.tokenizer == (PENN if script == "cat" else PLAIN)
    assert found.values.keys() == scores(RIGHT, REFERENCES).keys()
    assert found.values["ROUGE-L"] == pytest.approx(100)


def fake_java(monkeypatch, folder, script):
    """A command `java` whose tokenizer copies and whose METEOR does what the script says."""
    fake = folder / "java"
    tokenizer = (
        f'echo "$@" >> {folder}/log; echo "$_JAVA_OPTIONS" >> {folder}/log; case "$*" in *PTBTok*) cat; exit;; esac'
    )
    fake.write_text(f"#!/bin/sh\n{tokenizer}\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    module._meteor.cache_clear()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'java.lang.NumberFormatException: 0,85' >&2; exit 1", r"code 1 \(java.*: 0,85\): run `java -version`"),
        ("kill -9 $$", r"killed by signal 9 \(it said nothing\): METEOR needs 2 GiB of free memory"),
        ("exit 137", "killed by signal 9 .*METEOR needs 2 GiB"),
        ("echo 'java.lang.OutOfMemoryError: Java heap space' >&2; exit 3", "code 3 .*heap space.*needs 2 GiB"),
        ("echo 'Picked up JAVA_TOOL_OPTIONS: -Dx' >&2; exit 2", r"code 2 \(it said nothing\): run"),
        ("for i in $(seq 20000); do echo noise >&2; done; exit 4", "code 4 .noise noise"),
    ],
)
def test_why_java_failed_is_said(monkeypatch, tmp_path, script, says):
    """Memory only where it was memory."""
    fake_java(monkeypatch, tmp_path, script)
    found = caption_scores(RIGHT, REFERENCES)
    assert set(found.not_run) == {"METEOR"}
    assert re.search(says, found.not_run["METEOR"])
    assert found.values["ROUGE-L"] == pytest.approx(100)


def test_java_runs_in_the_locale_it_was_written_for(monkeypatch, tmp_path):
    """Both programs, and whatever the user's variables say."""
    monkeypatch.setenv("_JAVA_OPTIONS", "-Duser.language=it")
    fake_java(monkeypatch, tmp_path, "exit 1")
    caption_scores(RIGHT, REFERENCES)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "-Duser.language=en -Duser.country=US " in line
    for own in lines[1::2]:
        assert own.startswith("-Duser.language=it -Duser.language=en")


@pytest.mark.slow
@needs_java
def test_meteor_is_the_same_in_every_locale(monkeypatch):
    said = {"a": "a red disc spins", "b": "the star grows", "c": "A RING"}
    module._meteor.cache_clear()
    wanted = caption_scores(said, REFERENCES)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR -Duser.language.format=it")
    monkeypatch.setenv("_JAVA_OPTIONS", "-Duser.language=ar")
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    module._meteor.cache_clear()
    assert caption_scores(said, REFERENCES) == wanted
    assert 0 < wanted.values["METEOR"] < 100


@pytest.mark.slow
@needs_java
def test_with_java_meteor_runs_and_words_are_the_same():
    found = caption_scores({**RIGHT, "c": ""}, REFERENCES)
    assert found.not_run == {}
    assert found.tokenizer == PENN
    assert 50 < found.values.pop("METEOR") < 100
    assert found.values == scores({**RIGHT, "c": ""}, REFERENCES)
    odd = ["a man's t-shirt isn't 3.5 metres", "he cannot – “really” – don't", "", "a café, 1,000 people", ""]
    assert [module._plain(text) for text in odd] == module._penn(odd)
