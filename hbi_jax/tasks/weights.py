"""Initial and teacher weights of a run, from a converted folder or the work folder of an earlier run."""

import contextlib
from collections.abc import Iterator

import jax
from etils import epath
from jaxtyping import PyTree

from hbi_jax import pretrained
from hbi_jax.fields import ConfigError, plain
from hbi_jax.pretrained import Pretrained, PretrainedError
from hbi_jax.pretrained.shipped import is_shipped
from hbi_jax.tasks.config import Config, read_config
from hbi_jax.train.checkpoint import CheckpointError, Checkpoints

# The kind of weights that each task produces, as named by `hbi_jax.pretrained`; retrieval produces those of its model.
_KINDS = {"estimator": "estimator", "answers": "answer", "captions": "caption"}


def kind_of_run(config: Config) -> str:
    """Returns the kind of weights that a run produces, as named by `hbi_jax.pretrained`."""
    return _KINDS.get(config.task, config.model.method)


def workdir_of(path: str) -> epath.Path:
    """Returns the work folder of `path`, which is a work folder or one of its checkpoints."""
    place = epath.Path(path).expanduser()
    return place.parent.parent if place.parent.name == "checkpoints" else place


def is_converted(path: str) -> bool:
    """Returns whether `path` is a folder of converted weights rather than a work folder."""
    return not (workdir_of(path) / "checkpoints").is_dir() and (workdir_of(path) / "model.safetensors").is_file()


@contextlib.contextmanager
def open_checkpoint(path: str, best_metric: str) -> Iterator[tuple[Checkpoints, int]]:
    """Opens the checkpoints of a work folder and selects its best step, or the given step if `path` is one.

    Args:
      path: A work folder or a step such as `runs/quickstart/checkpoints/800`.
      best_metric: The validation metric that selects the best step.

    Yields:
      The checkpoints and the selected step.

    Raises:
      CheckpointError: If there is no checkpoint.
    """
    place = epath.Path(path).expanduser()
    if place.is_file():
        raise CheckpointError(f"{place} is a file, wanted a folder; convert it: python -m hbi_jax.pretrained convert")
    is_step = place.name.isdigit() and place.parent.name == "checkpoints"
    folder = place.parent if is_step else place / "checkpoints"
    if not folder.is_dir() or (is_step and not place.is_dir()):
        raise CheckpointError(
            f"no checkpoint at {place}: wanted a work folder that was trained in, or one of its steps, such as "
            "runs/quickstart/checkpoints/800; train first, or correct the path"
        )
    with Checkpoints(str(folder), best_metric) as checkpoints:
        step = int(place.name) if is_step else checkpoints.best_step()
        if step is None:
            raise CheckpointError(f"{folder} holds no complete checkpoint; train first, or correct the path")
        yield checkpoints, step


def load_weights(path: str) -> Pretrained:
    """Loads weights from a folder written by `hbi_jax.pretrained`, a work folder, one of its steps, or the package.

    Raises:
      PretrainedError, CheckpointError: If there are no weights, or they cannot be read.
    """
    workdir = workdir_of(path)
    if is_shipped(path) or not (workdir / "checkpoints").is_dir():
        return pretrained.load(path)
    try:
        config = read_config(workdir / "config.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{workdir}/config.json cannot be read ({error}), so the checkpoints cannot be loaded; give a folder that "
            "was written by training or by `python -m hbi_jax.pretrained convert`"
        ) from error
    kind = kind_of_run(config)
    fields = plain(config.model)
    if kind == "estimator":
        fields = {"kind": config.estimator.kind, "num_features": config.estimator.num_features}
    if kind == "answer":
        fields["dropout_rate"] = config.answers.dropout_rate
    if kind == "caption":
        fields |= {"decoder_layers": config.captions.decoder_layers, "dropout_rate": config.captions.dropout_rate}
    with open_checkpoint(path, config.eval.best_metric) as (checkpoints, step):
        params = jax.device_get(checkpoints.restore_saved(step))
    if kind == "estimator":
        params = {"params": params["params"]["estimator"]}
    if kind == "answer":
        fields["num_answers"] = params["params"][f"answer_{fields['levels'][0][0]}"]["logits"]["bias"].shape[0]
    return Pretrained(kind, fields, params)


def initialize(params: PyTree, config: Config, path: str, field: str, kind: str | None = None) -> PyTree:
    """Returns the parameters of a model with the weights at `path` in place.

    Args:
      params: The model's variables.
      config: The configuration that the model was built from.
      path: The weights, see `load_weights`.
      field: The name of the flag or field that gave the path, for messages.
      kind: The required kind of weights; None accepts every kind that the model can start from.

    Raises:
      ConfigError: If the weights have another kind or size.
    """
    task = config.task
    try:
        weights = load_weights(path)
        if kind is not None and weights.kind != kind:
            raise PretrainedError(f"their kind is {weights.kind!r}, wanted {kind!r}; choose other weights")
        fields = None if weights.kind == "estimator" else plain(config.model)
        return pretrained.initialize(params, weights, fields)
    except PretrainedError as error:
        raise ConfigError(f"{field}={path!r} has no weights for config.task={task!r}: {error}") from error
