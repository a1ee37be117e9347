"""The estimator's pre-training as a run of its own, and retrieval taught by each teacher."""

import json

import jax
import numpy as np
import pytest

from configs.estimator import get_config as estimator_config
from hbi_jax import experiment, pretrained
from hbi_jax.fields import ConfigError
from hbi_jax.train.checkpoint import Checkpoints
from tests.tiny_run import run, tiny_config

STEPS = 60


def tiny_estimator(world, init, **changes):
    fields = {
        "task": "estimator",
        "name": "estimator",
        "init": str(init),
        "train.num_steps": STEPS,
        "train.log_every": 15,
        "train.eval_every": 30,
        "train.checkpoint_every": 15,
        "eval.best_metric": "correlation",
        "optimizer.learning_rate": 1e-2,
        "optimizer.frozen": estimator_config("quickstart").optimizer.frozen,
        "estimator.num_features": 4,
        "estimator.num_samples": 64,
    }
    return tiny_config(world, **{name.replace(".", "__"): value for name, value in (fields | changes).items()})


@pytest.fixture(scope="module")
def pretraining(world, finished, tmp_path_factory):
    """The work folder of an estimator of the finished run's model."""
    workdir = tmp_path_factory.mktemp("estimator")
    run(tiny_estimator(world, finished), workdir)
    return workdir


def params_of(workdir, step=STEPS, metric="correlation"):
    with Checkpoints(str(workdir / "checkpoints"), metric) as checkpoints:
        return jax.device_get(checkpoints.restore_saved(step))["params"]


def test_the_model_stays_what_the_run_started_from_and_the_network_learns(pretraining, finished):
    with Checkpoints(str(finished / "checkpoints"), "t2v/R@1") as checkpoints:
        wanted = jax.device_get(checkpoints.restore_saved(checkpoints.best_step()))["params"]
    got = params_of(pretraining)
    jax.tree.map(np.testing.assert_array_equal, got["hbi"], wanted)
    rows = [json.loads(line) for line in (pretraining / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/total"] for row in rows if "loss/total" in row]
    assert losses[-1] < 0.9 * losses[0]


def test_its_report_compares_network_sampling_and_nothing_with_the_exact_interaction(pretraining):
    report = json.loads((pretraining / "report.json").read_text())
    assert report["title"] == "estimator: estimator"
    test, twins = report["tables"]
    assert test["columns"] == ["RMSE", "correlation", "top-1, %"]
    rows = dict(test["rows"])
    assert len(rows) == 9
    rmse, correlation, top1 = rows["entity: sampled, 64 coalitions"]
    zero = rows["entity: always zero"]
    assert rmse > 0
    assert -1 <= correlation <= 1
    assert 0 < top1 <= 100
    assert zero[0] > 0
    assert zero[1] is None
    assert report["dataset"] == {"test pairs": 8, "twins pairs": 8}
    assert len(twins["rows"]) == 9
    assert [picture["path"] for picture in report["pictures"]] == ["pictures/training.png", "pictures/estimator.png"]
    assert "always answering zero" in (pretraining / "report.md").read_text()


def test_what_it_leaves_is_an_estimator_like_a_converted_one(pretraining):
    weights = pretrained.load(pretraining / "estimator")
    assert weights.kind == "estimator"
    with Checkpoints(str(pretraining / "checkpoints"), "correlation") as checkpoints:
        best = checkpoints.best_step()
    jax.tree.map(np.testing.assert_array_equal, weights.params["params"], params_of(pretraining, best)["estimator"])


@pytest.mark.slow
def test_an_interrupted_pretraining_goes_on_bitwise(world, finished, pretraining, tmp_path):
    config = tiny_estimator(world, finished)
    setup = experiment.prepare(config, str(tmp_path))
    # The checkpoint of step 30 is the newest of a run that was killed after it.
    stop_after(setup, 40)
    run(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path), params_of(pretraining))


def stop_after(setup, count):
    """Trains until the batch of step `count` cannot be had."""
    batches = type(setup.task).batches

    class Ending:
        def __init__(self, task, source, start_step):
            self.inner, self.left = batches(task, source, start_step), count

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("the machine went down")
            return next(self.inner)

        def close(self):
            self.inner.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(setup.task), "batches", lambda task, source, start: Ending(task, source, start))
        with pytest.raises(RuntimeError, match="went down"):
            experiment.train(setup)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["sampled", "estimator"])
def test_retrieval_is_taught_by_every_teacher(world, finished, pretraining, tmp_path, teacher):
    """The exact one teaches the other tests; the interaction's loss tells that another teacher is at work."""
    config = tiny_config(
        world,
        loss__teacher=teacher,
        loss__estimator=str(pretraining),
        loss__num_samples=64,
        model__levels=(("entity", 0, 0),),
        eval__level_rates=(1.0,),
        train__num_steps=2,
        eval__baselines=False,
        eval__num_pictures=0,
    )
    run(config, tmp_path)
    first, exact = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (tmp_path, finished)
    )
    assert first["step"] == exact["step"] == 2
    assert np.isfinite(first["loss/entity/interaction"])
    assert first["loss/entity/interaction"] != exact["loss/entity/interaction"]
    assert json.loads((tmp_path / "report.json").read_text())["galleries"]


@pytest.mark.slow
def test_labels_may_be_sampled(world, finished, pretraining, tmp_path):
    """Noisier ones: the first steps err more against them than against the exact labels, from the same start."""
    run(tiny_estimator(world, finished, **{"estimator.labels": "sampled", "train.num_steps": 15}), tmp_path)
    noisy, exact = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (tmp_path, pretraining)
    )
    assert noisy["step"] == exact["step"] == 15
    assert noisy["loss/entity/squared_error"] > 2 * exact["loss/entity/squared_error"]


def test_weights_of_another_kind_do_not_teach(world, finished, tmp_path):
    config = tiny_config(world, loss__teacher="estimator", loss__estimator=str(finished))
    setup = experiment.prepare(config, str(tmp_path))
    with pytest.raises(ConfigError, match=r"config.loss.estimator=.*kind 'hbi': wanted an estimator"):
        experiment.train(setup)


def test_an_estimator_of_random_similarities_is_refused(world, tmp_path):
    setup = experiment.prepare(tiny_estimator(world, ""), str(tmp_path))
    with pytest.raises(ConfigError, match=r"config.init is empty: wanted .*estimator"):
        experiment.train(setup)
