"""Where a retrieval model's weights come from: an earlier run, a converted folder, CLIP alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from hbi_jax import experiment, pretrained
from hbi_jax.data.datasets import DataError
from hbi_jax.fields import ConfigError
from hbi_jax.metrics import dual_softmax, querybank, retrieval_metrics
from hbi_jax.tasks.retrieval import pictures as drawings
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator
from hbi_jax.tasks.retrieval.games import play
from hbi_jax.tasks.weights import load_weights
from hbi_jax.train.checkpoint import Checkpoints
from tests.logs import told
from tests.tiny_run import tiny_config


def zeros(task):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), task.abstract_params())


def best_params(workdir):
    with Checkpoints(str(workdir / "checkpoints"), "t2v/R@1") as checkpoints:
        return jax.device_get(checkpoints.restore_saved(checkpoints.best_step()))


@pytest.fixture(scope="module")
def converted(finished, tmp_path_factory):
    """The finished run's best weights as a folder like those of `convert`."""
    folder = tmp_path_factory.mktemp("converted") / "hbi"
    pretrained.save(folder, load_weights(str(finished)))
    return folder


@pytest.mark.parametrize("source", ["finished", "converted"])
def test_a_model_starts_from_a_run_or_a_converted_folder(world, finished, source, request, tmp_path):
    """Leaf for leaf."""
    config = tiny_config(world, init=str(request.getfixturevalue(source)))
    task = experiment.prepare(config, str(tmp_path)).task
    jax.tree.map(np.testing.assert_array_equal, task.load_init(zeros(task)), best_params(finished))


def test_weights_of_another_size_are_named(world, finished, tmp_path):
    task = experiment.prepare(tiny_config(world, init=str(finished), model__weight_features=24), str(tmp_path)).task
    with pytest.raises(ConfigError, match=r"config.init=.*weight_features"):
        task.load_init(zeros(task))


def test_clip_alone_gives_the_towers(world, finished, tmp_path):
    """And leaves the rest as it was: this model's words are narrower than its frames, so no text layer fits those."""
    weights = load_weights(str(finished))
    towers = {name: weights.params["params"][name] for name in ("text_tower", "vision_tower", "logit_scale")}
    folder = tmp_path / "clip"
    pretrained.save(folder, pretrained.Pretrained("clip", weights.config["clip"], {"params": towers}))
    task = experiment.prepare(tiny_config(world, init=str(folder)), str(tmp_path / "run")).task
    got = task.load_init(zeros(task))["params"]
    for name, tower in towers.items():
        jax.tree.map(np.testing.assert_array_equal, got[name], tower)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(got["header_entity"]))


def test_converted_weights_are_evaluated_like_the_run_they_come_from(world, finished, converted, tmp_path):
    config = tiny_config(world, eval__baselines=False, eval__num_pictures=0)
    setup = experiment.prepare(config, str(tmp_path))
    experiment.evaluate(setup, str(converted))
    theirs, mine = (json.loads((folder / "report.json").read_text()) for folder in (finished, tmp_path))
    for a, b in zip(mine["galleries"], theirs["galleries"], strict=True):
        assert a["rows"][0]["method"] == "HBI, converted weights"
        assert a["rows"][0]["metrics"] == b["rows"][0]["metrics"]


@pytest.mark.slow
def test_a_run_is_evaluated_after_what_it_started_from_moved(world, finished, tmp_path, caplog):
    """Without the row of the model before training, and saying so."""
    setup = experiment.prepare(tiny_config(world, init=str(tmp_path / "gone"), eval__num_pictures=0), str(tmp_path))
    with caplog.at_level("WARNING", logger="hbi_jax"):
        experiment.evaluate(setup, str(finished))
    assert "no row of the model before training" in caplog.text
    report = json.loads((tmp_path / "report.json").read_text())
    methods = [row["method"] for row in report["galleries"][0]["rows"]]
    assert methods[1:] == ["its towers, mean-pooled"]
    # Nothing is said of how a checkpoint was chosen that is not this run's.
    assert not any("checkpoint is" in sentence for sentence in report["protocol"])


@pytest.mark.slow
def test_clip_alone_is_no_model_to_evaluate(world, finished, tmp_path):
    weights = load_weights(str(finished))
    towers = {name: weights.params["params"][name] for name in ("text_tower", "vision_tower", "logit_scale")}
    pretrained.save(tmp_path / "clip", pretrained.Pretrained("clip", weights.config["clip"], {"params": towers}))
    setup = experiment.prepare(tiny_config(world), str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"--checkpoint=.*their kind is 'clip', wanted 'hbi'"):
        experiment.evaluate(setup, str(tmp_path / "clip"))


def test_weights_of_another_task_are_not_evaluated(world, finished, tmp_path):
    net = pretrained.Pretrained(
        "estimator", {"kind": "mlp", "num_features": 2}, {"params": {
            "conv_in": {"kernel": np.ones((1, 1, 1, 2), np.float32), "bias": np.ones(2, np.float32)},
            "conv_out": {"kernel": np.ones((1, 1, 2, 1), np.float32), "bias": np.ones(1, np.float32)},
        }},
    )  # fmt: skip
    pretrained.save(tmp_path / "net", net)
    setup = experiment.prepare(tiny_config(world), str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"--checkpoint=.*their kind is 'estimator', wanted 'hbi'"):
        experiment.evaluate(setup, str(tmp_path / "net"))


def test_normalised_rows_stand_beside_the_plain_one(world, finished, tmp_path):
    """With the figures of scores that are computed here once more, pair by pair, and a word on what they look at."""
    changes = {"eval__baselines": False, "eval__num_pictures": 0, "eval__querybank_size": 5}
    both = ("dual_softmax", "querybank")
    setup = experiment.prepare(tiny_config(world, eval__normalize=both, **changes), str(tmp_path))
    params, _ = experiment.restore_params(setup, str(finished))
    results = setup.task.evaluate(params, "x")
    gallery = results.galleries[0]
    assert [row.method for row in gallery.rows] == [
        "HBI, x",
        "HBI, x, dual softmax (uses all test queries)",
        "HBI, x, querybank (uses 5 training texts and their videos)",
    ]
    evaluator, threads = setup.task.evaluator, 1
    test, train = (evaluator.encoder.encode(params, setup.task.source(name), threads) for name in ("test", "train"))
    plain = evaluator.similarity(params, test)
    # Five of 200, five a video, the first and the last among them.
    chosen = [0, 49, 99, 149, 199]
    texts = evaluator.similarity(params, dataclasses.replace(train, video=test.video))[chosen]
    columns = train.text_to_video[chosen]
    videos = evaluator.similarity(params, dataclasses.replace(test, video=train.video))[:, columns]
    for row, scores in zip(gallery.rows[1:], (dual_softmax(plain), querybank(plain, texts, videos)), strict=True):
        for direction, directed in scores._asdict().items():
            wanted = retrieval_metrics(directed, test.text_to_video)[direction]
            assert row.metrics[direction] == pytest.approx(wanted)
        recalls = [row.metrics[way][f"R@{k}"] for way in ("t2v", "v2t") for k in (1, 5, 10)]
        assert row.metrics["Rsum"] == pytest.approx(sum(recalls))
        assert 0 <= results.galleries[1].rows[1].group_accuracy <= 100
    assert gallery.rows[0].metrics == retrieval_metrics(plain, test.text_to_video)
    assert sum("all test queries" in row.note or "training queries" in row.note for row in gallery.rows) == 2
    # Validation never uses them.
    validated = setup.task.validate(params, setup.task.source("test"))
    assert validated["t2v/R@1"] == gallery.rows[0].metrics["t2v"]["R@1"]


def test_malformed_times_of_words_are_named_before_training(world, tmp_path):
    (tmp_path / "words.jsonl").write_text("[]")
    config = tiny_config(world, data__render="", eval__word_times=str(tmp_path / "words.jsonl"))
    with pytest.raises(DataError, match=r"words.jsonl, line 1: got \[\], wanted an object such as"):
        experiment.prepare(config, str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "pictures", "played"),
    [
        ({}, 5, 6 * [8]),
        ({"data__render": ""}, 5, 3 * [2]),
        # Each gallery plays with patches last.
        ({"eval__patch_texts": 3}, 7, [8, 8, 8, 3, 8, 8, 8, 4]),
    ],
)
def test_processes_that_do_not_draw_play_the_same_games(
    world, finished, tmp_path, monkeypatch, changes, pictures, played
):
    """Games are collective programs: a process that skipped one would leave the others waiting."""
    config = tiny_config(world, **changes, eval__baselines=False, eval__num_pictures=2)
    setup = experiment.prepare(config, str(tmp_path))
    params, _ = experiment.restore_params(setup, str(finished))
    match, rows = RetrievalEvaluator.match, []

    def counted(self, params, gallery, rows_, level):
        rows[-1].append(len(set(rows_.tolist())))  # blocks of one size repeat the last
        return match(self, params, gallery, rows_, level)

    monkeypatch.setattr(RetrievalEvaluator, "match", counted)
    for draws in (True, False):
        if not draws:
            monkeypatch.setattr(drawings, "draw_interactions", lambda *_: [])
            monkeypatch.setattr(drawings, "draw_embeddings", lambda *_: [])
            monkeypatch.setattr(drawings, "draw_patches", lambda *_: [])
        rows.append([])
        assert len(setup.task.evaluate(params, "x").pictures) == (pictures if draws else 0)
    # Where there is ground truth, every pair of every gallery is played once a level; otherwise what is drawn.
    assert rows == [played, played]


def encoded(world, finished, tmp_path):
    """The task of a finished run, its test split encoded, and a function that plays texts of it at the first level."""
    setup = experiment.prepare(tiny_config(world), str(tmp_path))
    params, _ = experiment.restore_params(setup, str(finished))
    task, source = setup.task, setup.task.source("test")
    gallery = task.evaluator.encoder.encode(params, source)

    def play_rows(rows, estimates=None):
        return play(task.evaluator, params, gallery, rows, "entity", source, task.dataset.tokenizer, estimates)

    return task, source, gallery, play_rows


def test_pictures_of_several_captions_of_a_video_are_several_files(world, finished, tmp_path):
    _, source, gallery, play_rows = encoded(world, finished, tmp_path)
    played = play_rows(np.array([0, 0]))
    pictures = drawings.draw_interactions({"entity": played}, source, tmp_path / "pictures", {})
    video = source.split.records[gallery.record_index[0]].video_id
    wanted = [tmp_path / "pictures" / f"interaction_{video}{number}.png" for number in ("", "_2")]
    assert [picture.path for picture in pictures] == list(map(str, wanted))
    assert all(path.is_file() for path in wanted)


def test_every_block_of_a_gallery_draws_its_own_coalitions(world, finished, tmp_path):
    """One pair again and again: its interaction is the same, and samples differ within blocks and between them."""
    task, _, _, play_rows = encoded(world, finished, tmp_path)
    size = task.evaluator.encoder.batch_size
    played = play_rows(np.zeros(2 * size, int), task._estimates)
    drawn = {game.values["sampled, 100 coalitions"].tobytes() for game in played}
    assert len({game.values["interaction"].tobytes() for game in played}) == 1
    assert len(drawn) == 2 * size


def test_annotated_captions_of_no_gallery_are_told(world, tmp_path, caplog, monkeypatch):
    """Those of videos that cannot be read are told elsewhere. The file may lie in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = [{"video_id": video, "caption": "A dog runs.", "words": []} for video in ("one", "two")]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_config(world, data__render="", eval__word_times="~/words.jsonl")
    task = experiment.prepare(config, str(tmp_path / "run")).task
    task._tell_unknown({("one", "A dog runs.")}, {"two": "gone"})
    assert not told(caplog)
    task._tell_unknown({("one", "A dog runs.")}, {})
    assert "1 of 2 captions are in no gallery, such as 'A dog runs.' of video 'two'" in told(caplog)[0].getMessage()


def test_reconstructed_tokens_are_drawn_beside_those_they_are_made_of(world, tmp_path, monkeypatch):
    """Fresh gates are 1, so both are the same."""
    drawn = []
    monkeypatch.setattr(drawings, "draw_embeddings", lambda stages, *_: drawn.append(stages) or [])
    levels = {"model__levels": (("entity", 0, 0),), "eval__level_rates": (1.0,)}
    config = tiny_config(world, **levels, model__reconstruction=True, eval__baselines=False, eval__num_pictures=1)
    setup = experiment.prepare(config, str(tmp_path))
    setup.task.evaluate(setup.task.placed(lambda fresh: fresh), "x")
    ((plain, reconstructed),) = drawn
    assert (plain.name, reconstructed.name) == ("after training", "after training, reconstructed")
    for side, mask in (("words", "word_mask"), ("frames", "frame_mask")):
        real = getattr(plain, mask)
        np.testing.assert_array_equal(real, getattr(reconstructed, mask))
        np.testing.assert_allclose(getattr(reconstructed, side)[real], getattr(plain, side)[real], atol=1e-6)
