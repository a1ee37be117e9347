"""Weights out of work folders: of which model they are, and what a run of another task takes from them."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax import pretrained
from hbi_jax.fields import ConfigError
from hbi_jax.models.caption import CaptionHBI
from hbi_jax.models.hbi import HBI
from hbi_jax.tasks.config import to_json
from hbi_jax.tasks.task import init_model
from hbi_jax.tasks.weights import initialize, load_weights
from hbi_jax.train.checkpoint import Checkpoints
from hbi_jax.train.state import TrainState
from tests.tiny_run import tiny_config

MODELS = {
    "retrieval": lambda config: HBI(config.model),
    "captions": lambda config: CaptionHBI(config.model, config.captions.decoder_layers, config.captions.dropout_rate),
}


def make_config(task):
    captions = {"data__dataset": "msrvtt_caption", "eval__best_metric": "CIDEr", "captions__max_words": 10}
    fields = {"captions__decoder_layers": 2, "captions__dropout_rate": 0.3} | (captions if task == "captions" else {})
    return tiny_config(pathlib.Path("world"), task=task, **fields)


def params_of(config, value):
    """Every number the same."""
    model = MODELS[config.task](config)
    return jax.tree.map(
        lambda leaf: np.full(leaf.shape, value, leaf.dtype), jax.eval_shape(lambda: init_model(model, config))
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A work folder of each task, with one checkpoint."""
    folders = {}
    for value, task in enumerate(MODELS, start=1):
        folder, config = tmp_path_factory.mktemp(task), make_config(task)
        (folder / "config.json").write_text(to_json(config))
        with Checkpoints(str(folder / "checkpoints"), config.eval.best_metric) as checkpoints:
            params = jax.tree.map(jnp.asarray, params_of(config, value))
            checkpoints.save(TrainState(jnp.int32(3), params, {"count": jnp.zeros(1)}))
        folders[task] = str(folder)
    return folders


def assert_all(tree, value):
    assert all(np.all(np.asarray(leaf) == value) for leaf in jax.tree.leaves(tree))


def test_a_caption_run_is_read_again(runs, tmp_path):
    """And written as a folder of weights, which is what it was."""
    config = make_config("captions")
    weights = load_weights(runs["captions"])
    assert weights.kind == "caption"
    assert weights.model == MODELS["captions"](config)
    pretrained.save(tmp_path / "weights", weights)
    for read in (weights, load_weights(str(tmp_path / "weights"))):
        got = initialize(params_of(config, 0), config, str(tmp_path / "weights"), "config.init", "caption")
        assert jax.tree.structure(got) == jax.tree.structure(read.params)
        assert_all(got, 2)
    assert pretrained.load(tmp_path / "weights", progress=False).model == weights.model


def test_a_caption_run_starts_from_a_retrieval_run(runs):
    """With a decoder of its own; not the other way round."""
    config = make_config("captions")
    got = initialize(params_of(config, 0), config, runs["retrieval"], "config.init")["params"]
    assert_all(got.pop("caption"), 0)
    assert_all(got, 1)
    retrieval = make_config("retrieval")
    with pytest.raises(ConfigError, match=r"config.init='.*' has no weights for config.task='retrieval': .*'caption'"):
        initialize(params_of(retrieval, 0), retrieval, runs["captions"], "config.init")
