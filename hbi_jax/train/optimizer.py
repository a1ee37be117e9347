"""AdamW with the parameter groups of CLIP fine-tuning: the towers at their own rate, no decay where it hurts."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from hbi_jax.parallel import path_name

# Parameters that come from CLIP, and those that weight decay would pull away from what they mean.
CLIP_PATTERN = r"^params/(text_tower|vision_tower|logit_scale)"
NO_DECAY_PATTERN = r"(/bias|/scale|logit_scale|positional_embedding|class_embedding)$"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """See the fields of the same names in `hbi_jax.config.default_config`."""

    learning_rate: float
    clip_learning_rate: float
    warmup_rate: float
    weight_decay: float
    b1: float
    b2: float
    eps: float
    clip_norm: float
    frozen: tuple[str, ...]
    max_logit_scale: float


def warmup_cosine(peak: float, num_steps: int, warmup_rate: float) -> optax.Schedule:
    """Linear from 0 to `peak` over the first share of the steps, then half a cosine to 0."""
    warmup = min(round(warmup_rate * num_steps), num_steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps)


def parameter_groups(params: PyTree, frozen: tuple[str, ...] = ()) -> PyTree[str]:
    """The group of every parameter: `frozen`, `clip` or `new`.

    Raises:
      ValueError: If a pattern of `frozen` matches no parameter.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in frozen:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"config.optimizer.frozen: {pattern!r} matches no parameter; the names are those of the overview "
                "that training prints at its start, for instance params/vision_tower/patch_embedding/kernel"
            )

    def group(path, _):
        name = path_name(path)
        if any(re.search(pattern, name) for pattern in frozen):
            return "frozen"
        return "clip" if re.search(CLIP_PATTERN, name) else "new"

    return jax.tree_util.tree_map_with_path(group, params)


def decays(params: PyTree) -> PyTree[bool]:
    """True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(NO_DECAY_PATTERN, path_name(path)) is None, params
    )


def keep_logit_scale_below(maximum: float) -> optax.GradientTransformation:
    """Shortens the update of `logit_scale` so that exp(logit_scale) stays at or below `maximum`."""

    def update(updates, state, params):
        def shorten(path, update, param):
            if not path_name(path).endswith("logit_scale"):
                return update
            return jnp.minimum(update, math.log(maximum) - param)

        return jax.tree_util.tree_map_with_path(shorten, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(config: OptimizerConfig, params: PyTree, num_steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, Adam, decoupled decay, a schedule a group, `logit_scale` bounded.

    Args:
      config: The rates.
      params: The parameters, or their shapes: only paths are read.
      num_steps: Length of the schedule.
    """

    def adamw(peak: float) -> optax.GradientTransformation:
        return optax.adamw(
            warmup_cosine(peak, num_steps, config.warmup_rate),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decays,
        )

    groups = parameter_groups(params, config.frozen)
    is_frozen = jax.tree.map(lambda group: group == "frozen", groups)
    return optax.chain(
        optax.masked(optax.set_to_zero(), is_frozen),
        optax.clip_by_global_norm(config.clip_norm),
        optax.partition(
            {
                "new": adamw(config.learning_rate),
                "clip": adamw(config.clip_learning_rate),
                "frozen": optax.set_to_zero(),
            },
            groups,
        ),
        optax.masked(keep_logit_scale_below(config.max_logit_scale), jax.tree.map(lambda x: not x, is_frozen)),
    )
