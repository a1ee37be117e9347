"""Captioning as a run of its own: training, going on, scores, every caption written down, what does not fit."""

import collections
import json

import jax
import numpy as np
import pytest
from etils import epath

from hbi_jax import experiment
from hbi_jax.data import shapes
from hbi_jax.data.datasets import DataError
from hbi_jax.data.shapes.judge import judge
from hbi_jax.data.text import Tokenizer
from hbi_jax.fields import ConfigError
from hbi_jax.models.decoding import generate
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.captions import task as module
from hbi_jax.tasks.captions.metrics import caption_scores
from hbi_jax.tasks.captions.task import CaptionTask
from hbi_jax.train.checkpoint import Checkpoints
from tests.tiny_captions import STEPS, tiny_captions


@pytest.fixture(scope="module")
def setup(world, captioned):
    """The finished run, opened again."""
    return experiment.prepare(tiny_captions(world), str(captioned))


@pytest.fixture(scope="module")
def params(setup, captioned):
    return experiment.restore_params(setup, str(captioned))[0]


def written(workdir):
    results = json.loads((workdir / "captions-test.json").read_text())
    assert all(result.keys() == {"image_id", "caption"} for result in results)
    captions = {result["image_id"]: result["caption"] for result in results}
    assert len(captions) == len(results)
    return captions


@pytest.fixture(scope="module")
def references(world):
    data = json.loads((world / "MSRVTT_data.json").read_text())
    test = {video["video_id"] for video in data["videos"] if video["split"] == "test"}
    found = collections.defaultdict(list)
    for sentence in data["sentences"]:
        if sentence["video_id"] in test:
            found[sentence["video_id"]].append(sentence["caption"])
    return found


def test_the_report_scores_what_was_written(world, captioned, references):
    """Against all paraphrases of each video, and by the world's own grammar."""
    report, captions = json.loads((captioned / "report.json").read_text()), written(captioned)
    (table,) = report["tables"]
    names = [name for name, _ in table["rows"]]
    assert names[0] in ("HBI, step 2, beam", "HBI, step 4, beam")
    assert names[1:] == ["most frequent training caption", "a reference"]
    assert captions.keys() == references.keys()
    own, frequent, people = (dict(zip(table["columns"], row, strict=True)) for _, row in table["rows"])
    truths = {video: truth.events for video, truth in shapes.load_ground_truth(world).items()}
    judged = judge(captions, truths)
    scores = caption_scores(captions, references, java=False).values
    assert own == {
        **{f"{name}, %": round(value, 2) for name, value in scores.items()},
        "METEOR, %": None,
        "first event right, %": round(judged.first_event, 2),
        "all events right, %": round(judged.all_events, 2),
    }
    assert people["first event right, %"] == people["all events right, %"] == 100
    assert people["CIDEr, %"] > frequent["CIDEr, %"]
    assert "8 videos with 40 references; split into words by a plain tokenizer" in table["note"]
    assert "not run: METEOR, because Java does not run" in table["note"]
    assert [picture["path"] for picture in report["pictures"]] == ["pictures/training.png", "pictures/captions.png"]
    assert [sentence.split(":")[0] for sentence in report["protocol"]][2:6] == [
        "Most frequent training caption",
        "A reference",
        "First event right",
        "All events right",
    ]


def test_validation_has_what_the_best_is_chosen_by(captioned):
    rows = [json.loads(line) for line in (captioned / "metrics.jsonl").read_text().splitlines()]
    validated = [row for row in rows if "val/CIDEr" in row]
    assert [row["step"] for row in validated] == [2, STEPS]
    assert {"val/first_event/accuracy", "val/all_events/accuracy", "val/BLEU-4"} <= validated[0].keys()
    assert "val/METEOR" not in validated[0]
    losses = [row["loss/caption"] for row in rows if "loss/caption" in row]
    assert losses[-1] < losses[0] < 11.5


def test_captions_are_those_of_the_model_whatever_the_devices(setup, params, captioned):
    """By model and decoding on one device, without evaluator; the run had eight."""
    task, source = setup.task, setup.task.source("test")
    frames, mask, _ = source.video_rows(np.arange(8, dtype=np.int32))

    @jax.jit
    def caption(params, frames, mask):
        video = task.model.apply(params, frames, mask, method="encode_video").levels["entity"]
        return generate(task.model, params, video, setup.config.captions)

    made = caption(jax.device_get(params), frames, mask)
    said = [Tokenizer(10).decode(np.asarray(ids[0])[np.asarray(real[0])]) for ids, real in zip(*made[:2], strict=True)]
    captions = written(captioned)
    assert said == [captions[record.video_id] for record in source.split.videos]


def test_a_finished_run_is_not_trained_again(world, captioned, setup):
    with Checkpoints(str(captioned / "checkpoints"), "first_event/accuracy") as checkpoints:
        assert checkpoints.latest_step() == STEPS
    before = (captioned / "metrics.jsonl").read_text()
    experiment.train(setup)
    assert (captioned / "metrics.jsonl").read_text() == before


def test_captions_are_made_of_the_training_texts(captioned, setup):
    """A finished run knows them without its data; what spoils the file is told."""
    texts = [record.text for record in setup.task.dataset.split("train").records]
    token_ids, mask = setup.task.dataset.tokenizer.encode(texts)
    tokens = tuple(sorted({0, *token_ids[mask].tolist()}))
    assert setup.task.tokens == setup.task.model.vocabulary == tokens
    assert len(tokens) < 100
    folder = epath.Path(captioned)
    assert CaptionTask.of_run(setup.config, setup.mesh, folder).tokens == tokens


def test_videos_are_taught_several_captions(world, setup, tmp_path):
    """The row's own first, then others of its video, each once; the very batch alone where one is asked for."""
    source = setup.task.source("train")
    _, batch = next(setup.task.batches(source, 3))
    np.testing.assert_array_equal(batch.token_ids[:, 0], batch.batch.token_ids)
    say = setup.task.dataset.tokenizer.decode
    for row, video in enumerate(batch.batch.video_index):
        known = {say(source.text_rows(np.array([index]))[0][0]) for index in source.records_of[video]}
        said = [say(ids) for ids in batch.token_ids[row]]
        assert len(set(said)) == 2
        assert set(said) <= known
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), setup.task.abstract_batch())
    assert jax.tree.map(lambda x: (x.shape, np.asarray(x).dtype), batch) == shapes
    plain = experiment.prepare(tiny_captions(world, **{"captions.references_per_video": 1}), str(tmp_path)).task
    jax.tree.map(np.testing.assert_array_equal, next(plain.batches(source, 3))[1], batch.batch)


@pytest.mark.parametrize(
    ("content", "got"),
    [("{}", "a dict of something else"), ("[0, 1.0]", "a list of something else"), ("[0, 5, 3]", "3 numbers")],
)
def test_a_spoilt_file_of_tokens_is_told(setup, tmp_path, content, got):
    (tmp_path / "caption_tokens.json").write_text(content)
    with pytest.raises(DataError, match=rf"caption_tokens.json: .*{got}.* wanted a list of ascending numbers"):
        CaptionTask.of_run(setup.config, setup.mesh, epath.Path(tmp_path))


def test_all_of_clips_vocabulary_needs_no_training_texts(world, tmp_path):
    config = tiny_captions(world, **{"captions.vocabulary": "clip", "data.annotations": "/no/such"})
    task = CaptionTask(config, make_mesh(), epath.Path(tmp_path))
    assert task.model.vocabulary == ()
    assert CaptionTask.of_run(config, make_mesh(), epath.Path(tmp_path)).model == task.model
    task.claim_workdir()
    assert not list(tmp_path.iterdir())


def test_what_validation_cannot_know_is_told_before_the_training(world, tmp_path, monkeypatch):
    plain = {"data.render": "", "eval.best_metric": "first_event/accuracy"}
    task = experiment.prepare(tiny_captions(world, **plain), str(tmp_path)).task
    with pytest.raises(ConfigError, match=r"'first_event/accuracy': wanted 'CIDEr', .* if config.data.render is empty"):
        task.source("val")
    task.source("test")
    task = experiment.prepare(tiny_captions(world, **{"eval.best_metric": "CIDEr"}), str(tmp_path)).task
    task.source("val")
    monkeypatch.setattr(module, "is_installed", lambda: False)
    with pytest.raises(
        ConfigError, match=r"best_metric='CIDEr' needs pycocoevalcap, .*: pip install hbi_jax\[caption\]"
    ):
        task.source("val")


def test_questions_are_no_captions(world, tmp_path):
    with pytest.raises(ConfigError, match=r"config.data.dataset='msrvtt_qa': wanted a data set of captions"):
        experiment.prepare(tiny_captions(world, **{"data.dataset": "msrvtt_qa"}), str(tmp_path))
