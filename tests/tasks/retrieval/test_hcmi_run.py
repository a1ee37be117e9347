"""A whole tiny run of HCMI: two views from video files, denoising against the ground truth, weights, evaluation."""

import json

import jax
import numpy as np
import pytest

import hbi_jax
from configs.quickstart_hcmi import get_config
from hbi_jax import experiment, pretrained
from hbi_jax.models.hcmi import HCMI
from hbi_jax.tasks.weights import load_weights
from tests.tiny_run import run, tiny_config


def hcmi_config(world, **changes):
    """What configs/quickstart_hcmi.py changes of the quickstart, tiny."""
    own = get_config()
    names = ("method", "levels", "frame_layers", "frame_positions", "header")
    fields = {f"model__{name}": own.model[name] for name in names}
    names = ("interaction_weight", "distillation_weight", "denoising", "margin_weight", "motion_weight")
    fields |= {f"loss__{name}": own.loss[name] for name in names}
    fields |= {f"data__{name}": own.data[name] for name in ("sampling", "num_views", "frames_per_second")}
    fields |= {"eval__level_rates": own.eval.level_rates, "eval__normalize": ("dual_softmax",)}
    short = {"train__num_steps": 2, "train__log_every": 1, "train__eval_every": 0, "eval__baselines": False}
    return tiny_config(world, **{**fields, **short, **changes})


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("hcmi")
    run(hcmi_config(world, eval__num_pictures=1), workdir)
    return workdir


def test_the_report_has_what_a_report_of_hbi_has(workdir):
    report = json.loads((workdir / "report.json").read_text())
    test, twins = report["galleries"]
    assert [row["method"] for row in test["rows"]] == [
        "HBI, step 2",
        "HBI, step 2, dual softmax (uses all test queries)",
    ]
    for row in test["rows"]:
        found = row["metrics"]
        recalls = [found[way][f"R@{top}"] for way in ("t2v", "v2t") for top in (1, 5, 10)]
        # Shares of as many texts and videos.
        counts = np.array(recalls) / 100 * np.repeat([test["texts"], test["videos"]], 3)
        np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 100
        assert 0 <= recalls[3] <= recalls[4] <= recalls[5] <= 100
        assert found["Rsum"] == pytest.approx(sum(recalls))
    assert twins["rows"][0]["group_accuracy"] is not None
    assert report["dataset"]["training captions"] == 40 * 5
    assert 0 <= report["dataset"]["training captions that describe another training video as well"] < 100
    assert len(list((workdir / "pictures").glob("interaction_*.png"))) == 1


def test_what_is_logged_of_the_denoising(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss/total" in row]
    assert len(trained) == 2
    for row in trained:
        terms = ("frame/contrastive", "clip/contrastive", "video/contrastive", "margin")
        assert row["loss/total"] == pytest.approx(sum(row[f"loss/{term}"] for term in terms), rel=1e-5)
        assert 0 < row["denoising/view_cosine"] <= 1
        assert 0 <= row["denoising/found_per_row"] < 8
        assert 0 <= row["denoising/precision"] <= 1
        assert 0 <= row["denoising/recall"] <= 1


def test_its_weights_are_loaded_saved_and_started_from(workdir, world, tmp_path):
    weights = load_weights(str(workdir))
    assert (weights.kind, type(weights.model)) == ("hcmi", HCMI)
    pretrained.save(tmp_path / "weights", weights)
    loaded = hbi_jax.load(tmp_path / "weights")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, weights.params)
    setup = experiment.prepare(hcmi_config(world, init=str(tmp_path / "weights")), str(tmp_path / "run"))
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), setup.task.abstract_params())
    jax.tree.map(np.testing.assert_array_equal, setup.task.load_init(fresh), weights.params)
