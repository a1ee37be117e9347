"""AdamW with the parameter groups of CLIP fine-tuning: a separate rate for the towers, and exemptions from decay.

Also Muon, which needs fewer steps when training from scratch, and BertAdam, the published code's optimizer.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from hbi_jax.parallel.mesh import path_name
from hbi_jax.train.config import OptimizerConfig
from hbi_jax.train.muon import muon

# Parameters that come from CLIP, and parameters whose meaning weight decay would distort.
CLIP_PATTERN = r"^params/(text_tower|vision_tower|logit_scale)"
NO_DECAY_PATTERN = r"(/bias|/scale|logit_scale|positional_embedding|class_embedding|relative_bias)$"
# The published code exempts only biases from decay: its patterns for norms match none of its parameter names.
PUBLISHED_NO_DECAY_PATTERN = r"/bias$"


def warmup_cosine(peak: float, num_steps: int, warmup_rate: float) -> optax.Schedule:
    """Returns a linear warm-up from 0 to `peak` over the first share of the steps, then a half cosine to 0."""
    warmup = min(round(warmup_rate * num_steps), num_steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps)


def published_cosine(peak: float, num_steps: int, warmup_rate: float) -> optax.Schedule:
    """Returns the published schedule: a linear warm-up, then a cosine over the whole run, warm-up included.

    The rate starts at 0 and rises to `peak`. At the end of the warm-up it jumps down to the cosine, which has already
    decayed by then. It reaches 0 at `num_steps` and rises again afterwards.
    """

    def schedule(step: int | Int[Array, ""]) -> Float[Array, ""]:
        progress = jnp.asarray(step, jnp.float32) / num_steps
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        warming = progress / warmup_rate if warmup_rate else progress
        return peak * jnp.where(step < jnp.float32(warmup_rate * num_steps), warming, cosine)

    return schedule


def make_schedule(config: OptimizerConfig, peak: float, num_steps: int) -> optax.Schedule:
    """Returns the learning-rate schedule of a run; its length is the share `schedule_share` of `num_steps`."""
    length = max(1, round(config.schedule_share * num_steps))
    return (published_cosine if config.name == "bert_adam" else warmup_cosine)(peak, length, config.warmup_rate)


def parameter_groups(params: PyTree, frozen: tuple[str, ...] = ()) -> PyTree[str]:
    """Returns the group of every parameter: `frozen`, `clip` or `new`.

    Raises:
      ValueError: If a pattern of `frozen` matches no parameter.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in frozen:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"config.optimizer.frozen: {pattern!r} matches no parameter; use the names in the overview that "
                "training prints at its start, for example params/vision_tower/patch_embedding/kernel"
            )

    def group(path, _):
        name = path_name(path)
        if any(re.search(pattern, name) for pattern in frozen):
            return "frozen"
        return "clip" if re.search(CLIP_PATTERN, name) else "new"

    return jax.tree_util.tree_map_with_path(group, params)


def is_frozen(params: PyTree, frozen: tuple[str, ...]) -> PyTree[bool]:
    """Returns True at the parameters that match a pattern of `frozen`; see `parameter_groups`."""
    return jax.tree.map(lambda group: group == "frozen", parameter_groups(params, frozen))


def decays(params: PyTree, pattern: str = NO_DECAY_PATTERN) -> PyTree[bool]:
    """Returns True at the parameters that decay: those whose names do not match the pattern."""
    return jax.tree_util.tree_map_with_path(lambda path, _: re.search(pattern, path_name(path)) is None, params)


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Returns Adam without bias correction of the moments."""

    def init(params):
        return optax.ScaleByAdamState(
            jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)


def clip_each(maximum: float) -> optax.GradientTransformation:
    """Returns a transformation that clips the norm of every tensor separately."""

    def clip(update):
        return update / jnp.maximum(1.0, jnp.linalg.norm(update.ravel()) / maximum)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def keep_logit_scale_below(maximum: float) -> optax.GradientTransformation:
    """Returns a transformation that limits the update of `logit_scale` so that exp(logit_scale) <= `maximum`."""

    def update(updates, state, params):
        def shorten(path, update, param):
            if not path_name(path).endswith("logit_scale"):
                return update
            return jnp.minimum(update, math.log(maximum) - param)

        return jax.tree_util.tree_map_with_path(shorten, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(config: OptimizerConfig, params: PyTree, num_steps: int) -> optax.GradientTransformation:
    """Returns the optimizer: global-norm clipping, Adam, decoupled decay, a schedule per group, bounded `logit_scale`.

    With `muon`, the updates of matrices are orthogonalised and scaled to the size of Adam's, and only matrices decay.
    With `bert_adam`, every tensor is clipped again after the global clipping, Adam's moments have no bias correction,
    and all parameters except biases decay.

    Args:
      config: The optimizer's fields.
      params: The parameters or their shapes; only the paths are read.
      num_steps: Length of the run.
    """

    def adamw(peak: float) -> optax.GradientTransformation:
        return optax.adamw(
            make_schedule(config, peak, num_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decays,
        )

    def orthogonalised(peak: float) -> optax.GradientTransformation:
        return muon(config, make_schedule(config, peak, num_steps), decays)

    def bert_adam(peak: float) -> optax.GradientTransformation:
        return optax.chain(
            clip_each(config.clip_norm),
            scale_by_uncorrected_adam(config.b1, config.b2, config.eps),
            optax.add_decayed_weights(
                config.weight_decay, functools.partial(decays, pattern=PUBLISHED_NO_DECAY_PATTERN)
            ),
            optax.scale_by_learning_rate(make_schedule(config, peak, num_steps)),
        )

    rule = {"adamw": adamw, "muon": orthogonalised, "bert_adam": bert_adam}[config.name]
    groups = parameter_groups(params, config.frozen)
    frozen = is_frozen(params, config.frozen)
    return optax.chain(
        optax.masked(optax.set_to_zero(), frozen),
        optax.clip_by_global_norm(config.clip_norm),
        optax.partition(
            {
                "new": rule(config.learning_rate),
                "clip": rule(config.clip_learning_rate),
                "frozen": optax.set_to_zero(),
            },
            groups,
        ),
        optax.masked(keep_logit_scale_below(config.max_logit_scale), jax.tree.map(lambda x: not x, frozen)),
    )
