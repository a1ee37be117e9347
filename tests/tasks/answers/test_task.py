"""Question answering as a run of its own: vocabulary, training, going on, accuracy, what does not fit."""

import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import experiment, fields, pretrained
from hbi_jax.data.datasets import DataError
from hbi_jax.fields import ConfigError
from hbi_jax.pretrained import Pretrained
from hbi_jax.tasks.answers.task import AnswerTask
from hbi_jax.tasks.answers.vocabulary import Vocabulary
from hbi_jax.train.checkpoint import Checkpoints
from tests.logs import told
from tests.tiny_answers import RATES, STEPS, TOP, tiny_answers


@pytest.fixture(scope="module")
def setup(world, answered):
    """The finished run, opened again."""
    return experiment.prepare(tiny_answers(world), str(answered))


@pytest.fixture(scope="module")
def params(setup, answered):
    return experiment.restore_params(setup, str(answered))[0]


def last_params(workdir):
    with Checkpoints(str(workdir / "checkpoints"), "accuracy") as checkpoints:
        return jax.device_get(checkpoints.restore_saved(STEPS))


def questions(world, split):
    return [json.loads(line) for line in (world / f"{split}.jsonl").read_text().splitlines()]


def test_the_report_has_both_protocols_and_what_needs_no_video(world, answered):
    report = json.loads((answered / "report.json").read_text())
    (table,) = report["tables"]
    names = [name for name, _ in table["rows"]]
    best = names[0].split(":")[0]
    assert best in ("HBI, step 2", "HBI, step 4")
    protocols = ("all questions", "answer in the vocabulary")
    methods = (best, "no video", "most frequent training answer")
    assert names == [f"{method}: {protocol}" for method in methods for protocol in protocols]
    assert {column.removesuffix(", %") for column in table["columns"]} == {
        "overall", "what", "which", "how many", "where", "order"
    }  # fmt: skip
    asked = questions(world, "test")
    known = [question for question in asked if question["answer"] in json.loads(vocabulary_of(answered))]
    assert 0 < len(known) < len(asked)
    assert f"{len(asked)} questions" in table["note"]
    assert f"{len(known)} of them with an answer among the {TOP}" in table["note"]
    # What a model answers right is the same by both protocols; the last method is bound to no vocabulary.
    for (_, over_all), (_, over_known) in zip(table["rows"][:4:2], table["rows"][1:4:2], strict=True):
        np.testing.assert_allclose(over_all[0] * len(asked), over_known[0] * len(known))
    assert [picture["path"] for picture in report["pictures"]] == ["pictures/training.png", "pictures/answers.png"]
    said = [sentence.split(":")[0] for sentence in report["protocol"]]
    assert {"No video", "Most frequent training answer"} <= set(said)
    assert "Question only" not in said


def test_a_question_only_model_is_named_and_sees_what_no_video_sees(world, answered, tmp_path):
    config = tiny_answers(world, **{"answers.question_only": True, "eval.num_pictures": 0})
    experiment.evaluate(experiment.prepare(config, str(tmp_path)), str(answered))
    both = [json.loads((workdir / "report.json").read_text()) for workdir in (tmp_path, answered)]
    blind, rows = (dict(report["tables"][0]["rows"]) for report in both)
    own = next(name for name in blind if name.startswith("HBI, question only, step"))
    assert blind[own] == rows["no video: all questions"] != next(iter(rows.values()))
    assert not any(name.startswith("no video") for name in blind)
    assert any(sentence.startswith("Question only: ") for sentence in both[0]["protocol"])


def question_only_copy(answered, folder):
    """What a run with answers.question_only would leave behind."""
    shutil.copytree(answered, folder)
    config = json.loads((folder / "config.json").read_text())
    config["answers"]["question_only"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_question_only_model_is_in_the_table_of_another(world, answered, tmp_path):
    """Its figures are those that its weights reach without video."""
    blind = question_only_copy(answered, tmp_path / "blind")
    config = tiny_answers(world, **{"eval.question_only_run": str(blind), "eval.num_pictures": 0})
    experiment.evaluate(experiment.prepare(config, str(tmp_path)), str(answered))
    report, before = (json.loads((workdir / "report.json").read_text()) for workdir in (tmp_path, answered))
    step = before["tables"][0]["rows"][0][0].split(":")[0].removeprefix("HBI, ")
    wanted = [(name.replace("no video", f"question only, {step}"), row) for name, row in before["tables"][0]["rows"]]
    assert list(map(tuple, report["tables"][0]["rows"])) == wanted
    assert f"question only, {step}: " in report["tables"][0]["headline"]
    assert any(sentence.startswith("Question only: ") for sentence in report["protocol"])
    assert not any(sentence.startswith("No video: ") for sentence in report["protocol"])


def test_what_is_no_question_only_run_is_told_before_the_training(world, answered, tmp_path):
    for path, message in (
        (tmp_path / "nothing", "wanted the work folder of a finished run"),
        (answered, "config.answers.question_only=False: wanted 'answers' and True; train one with"),
    ):
        config = tiny_answers(world, **{"eval.question_only_run": str(path)})
        with pytest.raises(ConfigError, match=f"config.eval.question_only_run='{path}'.*{message}"):
            experiment.train(experiment.prepare(config, str(tmp_path / "run")))
    blind = question_only_copy(answered, tmp_path / "blind")
    config = tiny_answers(world, **{"eval.question_only_run": str(blind), "answers.top_answers": TOP + 1})
    with pytest.raises(ConfigError, match=f"have {TOP} answers: wanted the {TOP + 1} answers of this run"):
        experiment.train(experiment.prepare(config, str(tmp_path / "run")))
    # Its weights would fit this model and mean nothing in it.
    config = tiny_answers(world, **{"eval.question_only_run": str(blind), "model.merge_heads": 1})
    with pytest.raises(ConfigError, match=r"config.model.merge_heads=1, but the checkpoint of .* was trained with 2"):
        experiment.train(experiment.prepare(config, str(tmp_path / "run")))


def test_without_the_training_split_there_is_no_most_frequent_answer(world, answered, params, tmp_path, caplog):
    fields = {
        "answers.vocabulary": str(answered / "vocabulary.json"),
        "data.annotations": str(tmp_path),
        "data.render": "",
        "eval.num_pictures": 0,
    }
    for file in world.glob("*.json*"):
        if file.name != "train.jsonl":
            shutil.copy(file, tmp_path)
    task = experiment.prepare(tiny_answers(world, **fields), str(tmp_path / "run")).task
    (table,) = task.evaluate(params, "x").tables
    methods = {row.method.split(":")[0] for row in table.rows}
    assert methods == {"HBI, x", "no video"}
    assert "the report has no row of the most frequent training answer" in caplog.text


def vocabulary_of(workdir):
    return (workdir / "vocabulary.json").read_text()


def test_terms_and_validation_are_logged(answered):
    rows = [json.loads(line) for line in (answered / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/entity/answer", "loss/action/answer", "loss/action/distillation"} <= set(rows[0])
    validated = [row for row in rows if "val/accuracy" in row]
    assert [row["step"] for row in validated] == [2, 4]
    assert all(0 <= row["val/accuracy"] <= row["val/in_vocabulary/accuracy"] <= 100 for row in validated)
    assert "val/how_many/accuracy" in validated[0]


def test_batches_carry_the_answers_of_their_questions(world, setup):
    source = setup.task.source("train")
    vocabulary = Vocabulary.build([question["answer"] for question in questions(world, "train")], top=TOP)
    assert setup.task.vocabulary == vocabulary
    record_index, batch = next(setup.task.batches(source, 3))
    np.testing.assert_array_equal(record_index, batch.batch.record_index)
    records = [source.split.records[index] for index in record_index]
    wanted = [vocabulary.index(record.answer) for record in records]
    assert -1 in wanted
    np.testing.assert_array_equal(batch.answer, wanted)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), setup.task.abstract_batch())
    assert jax.tree.map(lambda x: (x.shape, np.asarray(x).dtype), batch) == shapes


def test_videos_are_asked_several_questions(world, tmp_path):
    """The row's own first, then others of its video, each once, drawn by the step; nothing where it has no more."""
    changes = {"answers.questions_per_video": 4, "data.captions_per_video": "one"}
    task = experiment.prepare(tiny_answers(world, **changes), str(tmp_path)).task
    source = task.source("train")
    texts = [record.text for record in source.split.records]
    batches = [batch for _, batch in itertools.islice(task.batches(source, 0), 7)]
    numbers = []
    for batch in batches:
        assert len(set(batch.batch.video_index)) == len(batch.batch.video_index)
        np.testing.assert_array_equal(batch.token_ids[:, 0], batch.batch.token_ids)
        for row, own in enumerate(batch.batch.record_index):
            records = source.records_of[batch.batch.video_index[row]]
            asked = [task.dataset.tokenizer.decode(ids) for ids in batch.token_ids[row] if ids.any()]
            assert asked[0] == texts[own]
            assert len(asked) == min(4, len(records)) == batch.text_mask[row].any(axis=1).sum()
            answers = {texts[record]: task.vocabulary.index(source.split.records[record].answer) for record in records}
            assert [answers[text] for text in asked] == batch.answer[row, : len(asked)].tolist()
            assert len(set(asked)) == len(asked)
            assert (batch.answer[row, len(asked) :] == -1).all()
            numbers.append(len(asked))
    assert {3, 4} <= set(numbers)
    _, again = next(task.batches(source, 6))
    jax.tree.map(np.testing.assert_array_equal, again, batches[6])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), task.abstract_batch())
    assert jax.tree.map(lambda x: (x.shape, np.asarray(x).dtype), again) == shapes


def test_answers_are_those_of_the_model_on_matched_rows(setup, params):
    """Encoded apart, they are what training's forward pass says, levels weighed by their rates; blind, too."""
    task, source = setup.task, setup.task.source("train")
    batch = jax.tree.map(jnp.asarray, next(task.batches(source, 0))[1].batch)

    @functools.partial(jax.jit, static_argnums=0)
    def answer(model, frames):
        by_level = model.apply(params, batch._replace(frames=frames))[1].values()
        logits = sum(rate * logits for rate, logits in zip(RATES, by_level, strict=True))
        return jax.lax.top_k(jax.nn.softmax(logits), 3)

    black = jnp.zeros_like(batch.frames)
    blind = task.model.clone(question_only=True)
    for model, evaluator in ((task.model, task.evaluator), (blind, task._blind)):
        found = evaluator.answer(params, source)
        np.testing.assert_array_equal(found.record_index, np.arange(len(source.split.records)))
        probabilities, answers = answer(model, batch.frames)
        np.testing.assert_allclose(found.probabilities[batch.record_index], probabilities, atol=1e-5)
        np.testing.assert_array_equal(found.answers[batch.record_index, 0], answers[:, 0])
        unseen = answer(model, black)[0]
        assert np.array_equal(probabilities, unseen) == (model is blind)


@pytest.mark.slow
def test_a_killed_run_goes_on_bitwise(world, answered, tmp_path):
    config, batches = tiny_answers(world), AnswerTask.batches

    def ending(task, source, start_step):
        yield from itertools.islice(batches(task, source, start_step), 3)
        raise RuntimeError("the machine went down")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerTask, "batches", ending)
        with pytest.raises(RuntimeError, match="went down"):
            experiment.train(experiment.prepare(config, str(tmp_path)))
    experiment.train(experiment.prepare(config, str(tmp_path)))
    jax.tree.map(np.testing.assert_array_equal, last_params(tmp_path), last_params(answered))


def test_the_vocabulary_is_read_from_a_file(world, tmp_path):
    task = experiment.prepare(tiny_answers(world, **{"answers.vocabulary": "train_ans2label.json"}), str(tmp_path)).task
    assert task.vocabulary == Vocabulary.read(world / "train_ans2label.json")
    assert task.model.num_answers == len(task.vocabulary) > TOP
    with pytest.raises(DataError, match=r"nothing.json"):
        experiment.prepare(tiny_answers(world, **{"answers.vocabulary": "nothing.json"}), str(tmp_path))


def test_a_checkpoint_of_another_vocabulary_is_refused(world, answered, tmp_path):
    """By its size, by its content, and where it is resumed, evaluated or started from."""
    larger = experiment.prepare(tiny_answers(world, **{"answers.top_answers": TOP + 1}), str(tmp_path))
    wanted = (
        rf"vocabulary.json: .* have {TOP} answers: wanted the {TOP + 1} answers of this run.*set config.answers.voc"
    )
    for path in (answered, answered / "checkpoints" / str(STEPS)):
        with pytest.raises(ConfigError, match=wanted):
            experiment.restore_params(larger, str(path))
    init = experiment.prepare(tiny_answers(world, init=str(answered)), str(tmp_path)).task
    shutil.copytree(answered, tmp_path / "copy")
    vocabulary = Vocabulary.read(answered / "vocabulary.json").answers
    Vocabulary((vocabulary[0], "mauve", *vocabulary[2:])).write(tmp_path / "copy" / "vocabulary.json")
    changed = rf"have 'mauve' as answer 1, where this run has '{vocabulary[1]}'"
    with pytest.raises(ConfigError, match=changed):
        experiment.train(experiment.prepare(tiny_answers(world), str(tmp_path / "copy")))
    init.config = init.config.replace(init=str(tmp_path / "copy"))
    with pytest.raises(ConfigError, match=changed):
        init.load_init(zeros(init))


def zeros(task):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), task.abstract_params())


def test_it_starts_from_answers_or_from_retrieval(world, answered, params, tmp_path):
    """From the same kind all leaves; from retrieval all but the heads; heads of another size are refused."""
    same = experiment.prepare(tiny_answers(world, init=str(answered)), str(tmp_path)).task
    jax.tree.map(np.testing.assert_array_equal, same.load_init(zeros(same)), jax.device_get(params))

    sizes = fields.plain(same.config.model)
    body = {name: leaf for name, leaf in jax.device_get(params)["params"].items() if not name.startswith("answer_")}
    pretrained.save(tmp_path / "hbi", Pretrained("hbi", sizes, {"params": body}))
    task = experiment.prepare(tiny_answers(world, init=str(tmp_path / "hbi")), str(tmp_path)).task
    fresh = zeros(task)
    heads = {name: leaf for name, leaf in fresh["params"].items() if name.startswith("answer_")}
    jax.tree.map(np.testing.assert_array_equal, task.load_init(fresh), {"params": body | heads})

    heads = {**sizes, "num_answers": TOP, "dropout_rate": 0.1}
    pretrained.save(tmp_path / "answer", Pretrained("answer", heads, jax.device_get(params)))
    changes = {"init": str(tmp_path / "answer"), "answers.top_answers": TOP + 1}
    other = experiment.prepare(tiny_answers(world, **changes), str(tmp_path)).task
    with pytest.raises(ConfigError, match=f"num_answers is {TOP}, wanted {TOP + 1}"):
        other.load_init(zeros(other))


def test_questions_that_are_cut_are_told_once(world, answered, caplog):
    task = experiment.prepare(tiny_answers(world, **{"data.num_words": 9}), str(answered)).task
    with caplog.at_level("WARNING", logger="hbi_jax"):
        source = task.source("test")
    texts = [record.text for record in source.split.records]
    cut = [text for text in texts if task.dataset.tokenizer.truncated([text])]
    assert 0 < len(cut) < len(texts)
    (message,) = [record.getMessage() for record in told(caplog)]
    assert message.startswith(f"{len(cut)} of {len(texts)} texts of 'test' (")
    assert "exceed config.data.num_words=9 tokens" in message
    assert repr(cut[0]) in message


def test_captions_are_no_questions(world, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"config.data.dataset='msrvtt': wanted one of 'activitynet_qa', 'msrvtt_qa', 'msvd_qa', which have",
    ):
        experiment.prepare(tiny_answers(world, **{"data.dataset": "msrvtt"}), str(tmp_path))
