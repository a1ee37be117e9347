"""Weights that a run starts from or teaches with: a converted folder, or the work folder of an earlier run."""

import contextlib
import json
from collections.abc import Iterator

import jax
from etils import epath
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hbi_jax import pretrained
from hbi_jax.config import ConfigError
from hbi_jax.pretrained import Pretrained, PretrainedError
from hbi_jax.train.checkpoint import CheckpointError, Checkpoints

# What a work folder's task leaves behind, in the words of `hbi_jax.pretrained`.
KINDS = {"retrieval": "hbi", "estimator": "estimator"}


@contextlib.contextmanager
def open_checkpoint(path: str, best_metric: str) -> Iterator[tuple[Checkpoints, int]]:
    """The checkpoints of a work folder and the best of them; or, where `path` is one of its steps, that one.

    Args:
      path: A work folder or a step such as `runs/quickstart/checkpoints/500`.
      best_metric: What the best is best by.

    Raises:
      CheckpointError: If there is none.
    """
    place = epath.Path(path)
    is_step = place.name.isdigit() and place.parent.name == "checkpoints"
    folder = place.parent if is_step else place / "checkpoints"
    if not folder.is_dir() or (is_step and not place.is_dir()):
        raise CheckpointError(
            f"no checkpoint at {place}: wanted a work folder that was trained in, or one of its steps, such as "
            "runs/quickstart/checkpoints/500; train first, or correct the path"
        )
    with Checkpoints(str(folder), best_metric) as checkpoints:
        step = int(place.name) if is_step else checkpoints.best_step()
        if step is None:
            raise CheckpointError(f"{folder} holds no complete checkpoint; train first, or correct the path")
        yield checkpoints, step


def load_weights(path: str) -> Pretrained:
    """Weights by the path of a folder that `hbi_jax.pretrained` wrote, of a work folder, or of one of its steps.

    Raises:
      PretrainedError, CheckpointError: If there are none.
    """
    place = epath.Path(path)
    workdir = place.parent.parent if place.parent.name == "checkpoints" else place
    if not (workdir / "checkpoints").is_dir():
        return pretrained.load(path)
    try:
        config = ConfigDict(json.loads((workdir / "config.json").read_text()))
        task, best_metric = config.get("task", "retrieval"), config.eval.best_metric
        kind = KINDS[task]
        section = config.model if kind == "hbi" else config.estimator
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{workdir}/config.json does not tell what the checkpoints are of ({error}); give a folder that "
            "training or `python -m hbi_jax.pretrained convert` wrote"
        ) from error
    with open_checkpoint(path, best_metric) as (checkpoints, step):
        params = jax.device_get(checkpoints.restore_saved(step))
    if kind == "estimator":
        params = {"params": params["params"]["estimator"]}
    return Pretrained(kind, json.loads(section.to_json()), params)


def initialize(params: PyTree, config: ConfigDict, task: str) -> PyTree:
    """Fresh parameters of an HBI model, with what `config.init` holds in their place.

    Raises:
      ConfigError: If `config.init` is of another kind or size.
    """
    if not config.init:
        return params
    try:
        return pretrained.initialize(params, load_weights(config.init))
    except PretrainedError as error:
        raise ConfigError(f"config.init={config.init!r} cannot start a {task} model: {error}") from error
