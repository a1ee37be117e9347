"""The teacher of a run: where the interaction that trains the header comes from."""

from hbi_jax.choices import Padding
from hbi_jax.fields import ConfigError
from hbi_jax.tasks.weights import load_weights
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.teacher import Teacher, estimator_teacher, exact_teacher, sampled_teacher


def make_teacher(config: AlignmentLossConfig, padding: Padding) -> Teacher:
    """Builds the teacher that `config.loss.teacher` names.

    Args:
      config: The fields of `config.loss`.
      padding: That of the model.

    Raises:
      ConfigError: If `config.loss.estimator` is needed and holds no estimator.
    """
    if config.teacher != "estimator":
        return computed_teacher(config.teacher, config.interaction_scale, config.num_samples)
    path = config.estimator
    if not path:
        raise ConfigError(
            "config.loss.estimator is not set: wanted the folder of an estimator because config.loss.teacher is "
            "'estimator'; train one with configs/estimator.py, or convert the published one"
        )
    found = load_weights(path)
    # A published checkpoint carries the estimator that taught it.
    weights = found if found.kind == "estimator" else found.estimator
    if weights is None:
        raise ConfigError(
            f"config.loss.estimator={path!r} holds weights of kind {found.kind!r}: wanted an estimator; train one "
            "with configs/estimator.py, or convert the published one"
        )
    return estimator_teacher(weights.model, weights.params, padding)


def computed_teacher(way: str, scale: float, num_samples: int) -> Teacher:
    """Builds a teacher that needs no weights: `exact`, or `sampled` with so many coalitions."""
    return exact_teacher(scale) if way == "exact" else sampled_teacher(scale, num_samples)
