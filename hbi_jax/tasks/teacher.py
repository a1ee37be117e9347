"""The teacher of a run, which provides the interaction that the header is trained on."""

from hbi_jax.choices import Padding
from hbi_jax.fields import ConfigError
from hbi_jax.tasks.weights import load_weights
from hbi_jax.train.config import AlignmentLossConfig
from hbi_jax.train.teacher import Teacher, estimator_teacher, exact_teacher, sampled_teacher, standardized


def make_teacher(config: AlignmentLossConfig, padding: Padding) -> Teacher:
    """Builds the teacher named by `config.loss.teacher`, with standardised logits if `teacher_temperature` is set.

    Args:
      config: The fields of `config.loss`.
      padding: The padding mode of the model.

    Raises:
      ConfigError: If an estimator is needed and `config.loss.estimator` does not hold one.
    """
    teacher = _named_teacher(config, padding)
    return standardized(teacher, config.teacher_temperature) if config.teacher_temperature else teacher


def _named_teacher(config: AlignmentLossConfig, padding: Padding) -> Teacher:
    if config.teacher != "estimator":
        return computed_teacher(config.teacher, config.interaction_scale, config.num_samples)
    path = config.estimator
    if not path:
        raise ConfigError(
            "config.loss.estimator is not set: wanted the folder of an estimator because config.loss.teacher is "
            "'estimator'; train one with configs/estimator.py, or convert the published one"
        )
    found = load_weights(path)
    # Published checkpoints include the estimator that they were trained with.
    weights = found if found.kind == "estimator" else found.estimator
    if weights is None:
        raise ConfigError(
            f"config.loss.estimator={path!r} holds weights of kind {found.kind!r}: wanted an estimator; train one "
            "with configs/estimator.py, or convert the published one"
        )
    return estimator_teacher(weights.model, weights.params, padding)


def computed_teacher(way: str, scale: float, num_samples: int) -> Teacher:
    """Builds a teacher that needs no weights: `exact`, or `sampled` with `num_samples` coalitions."""
    return exact_teacher(scale) if way == "exact" else sampled_teacher(scale, num_samples)
