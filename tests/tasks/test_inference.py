"""A finished run on video files: the answers are those of its evaluation; what cannot be read or opened is named."""

import itertools
import json
import shutil

import numpy as np
import pytest

import hbi_jax
from hbi_jax.config import default_config
from hbi_jax.tasks.answers.inference import answer_questions
from hbi_jax.tasks.inference import Run, open_run
from hbi_jax.train.checkpoint import CheckpointError
from tests.logs import told

LONG = "what color is " + "the very " * 20 + "large shape that spins?"


@pytest.fixture(scope="module")
def opened(answered):
    return open_run(answered, "answers")


@pytest.fixture(scope="module")
def evaluated(opened):
    """Of the run's own evaluation: video file and question -> the likeliest answers and their probabilities."""
    source = opened.task.source("test")
    found = opened.task.evaluator.answer(opened.params, source)
    answers = np.array(opened.task.vocabulary.answers)[found.answers]
    records = [source.split.records[row] for row in found.record_index]
    return {
        (str(record.path), record.text): (tuple(texts), values)
        for record, texts, values in zip(records, answers, found.probabilities, strict=True)
    }


def test_answers_are_those_of_the_evaluation(opened, evaluated, tmp_path):
    """For every video with every question, in order, whatever else is asked; a broken video has none."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    videos = [broken, *dict.fromkeys(video for video, _ in evaluated)][:4]
    questions = list(dict.fromkeys(text for _, text in evaluated))[:5]
    found = answer_questions(opened, videos, questions, top=3)
    pairs = list(itertools.product(map(str, videos), questions))
    assert [(answer.video, answer.question) for answer in found] == pairs
    compared = 0
    for answer in found:
        if answer.video == str(broken):
            assert (answer.answers, answer.probabilities) == ((), ())
            assert answer.error.startswith(f"{broken}: ")
            continue
        assert answer.error is None
        assert len(answer.answers) == 3
        if (answer.video, answer.question) in evaluated:
            answers, probabilities = evaluated[answer.video, answer.question]
            assert answer.answers == answers
            np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-5)
            compared += 1
    assert compared >= 3
    assert len({answer.probabilities for answer in found}) > 5


def test_a_path_and_a_question_alone_are_one_each(answered, evaluated):
    """From the package itself, with all answers of the vocabulary where more are asked for."""
    (video, question), (answers, probabilities) = next(iter(evaluated.items()))
    (answer,) = hbi_jax.answer_questions(answered, video, question, top=1000)
    assert answer.answers[:3] == answers
    assert len(answer.answers) == 12
    np.testing.assert_allclose(answer.probabilities[:3], probabilities, atol=1e-5)
    np.testing.assert_allclose(sum(answer.probabilities), 1, atol=1e-5)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)


def test_where_no_video_can_be_read_there_is_no_answer(opened, tmp_path):
    found = answer_questions(opened, [tmp_path / "a.mp4", tmp_path / "b.mp4"], "what?", top=3)
    assert [answer.answers for answer in found] == [(), ()]
    assert all("a.mp4" in found[0].error and "b.mp4" in answer.error for answer in found[1:])


def test_a_long_question_is_named_with_what_is_left_of_it(opened, evaluated, caplog):
    video = next(iter(evaluated))[0]
    with caplog.at_level("WARNING", logger="hbi_jax"):
        (answer,) = answer_questions(opened, video, LONG, top=3)
    (message,) = [record.getMessage() for record in told(caplog)]
    assert message.startswith(
        f"{LONG!r} has more than config.data.num_words=24 tokens and loses its end: the model rea"
    )
    assert message.endswith("what color is" + " the very" * 9 + " the'")
    assert answer.question == LONG


@pytest.mark.parametrize(
    ("videos", "questions", "top", "message"),
    [
        ([], "what?", 3, "videos: got none, wanted at least one"),
        ("a.mp4", [], 3, "texts: got none, wanted at least one"),
        ("a.mp4", ["what?", " "], 3, "text 2 of 2: got ' ', wanted words"),
        ("a.mp4", "what?", 0, "top=0: wanted 1 answer or more"),
    ],
)
def test_what_cannot_be_answered_is_named(opened, videos, questions, top, message):
    with pytest.raises(ValueError, match=message):
        answer_questions(opened, videos, questions, top)


def test_the_data_need_not_be_there(answered, opened, tmp_path):
    """Of the folder only configuration, vocabulary and checkpoints are read."""
    for name in ("config.json", "vocabulary.json"):
        shutil.copy(answered / name, tmp_path)
    shutil.copytree(answered / "checkpoints", tmp_path / "checkpoints")
    config = json.loads((tmp_path / "config.json").read_text())
    config["data"] |= {"annotations": "/no/such", "videos": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = open_run(tmp_path / "checkpoints" / "4", "answers")
    assert isinstance(run, Run)
    assert run.task.vocabulary == opened.task.vocabulary


def test_checkpoints_of_another_task_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(default_config().to_json())
    with pytest.raises(CheckpointError, match=r"checkpoint of config.task='retrieval': wanted 'answers'; give"):
        answer_questions(tmp_path, "a.mp4", "what?")


def test_what_is_no_work_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not the work folder of a run: .*config.json cannot be read"):
        open_run(tmp_path / "nothing", "answers")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="holds converted weights: wanted the work folder of a run"):
        open_run(tmp_path, "answers")
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is not the work folder of a run"):
        open_run(tmp_path, "answers")
