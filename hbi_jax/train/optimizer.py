"""AdamW with the parameter groups of CLIP fine-tuning: the towers at their own rate, no decay where it hurts.

Beside it Muon, which learns from nothing in fewer steps, and the optimizer of the published code, known as BertAdam.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float, Int, PyTree

from hbi_jax.parallel.mesh import path_name
from hbi_jax.train.config import OptimizerConfig

# Parameters that come from CLIP, and those that weight decay would pull away from what they mean.
CLIP_PATTERN = r"^params/(text_tower|vision_tower|logit_scale)"
NO_DECAY_PATTERN = r"(/bias|/scale|logit_scale|positional_embedding|class_embedding)$"
# What the published code exempts from decay: its list of norms matches none of its names.
PUBLISHED_NO_DECAY_PATTERN = r"/bias$"
# Classifiers, which Muon leaves to Adam: its authors advise so, and its cost grows with the cube of a matrix's side.
CLASSIFIER_PATTERN = r"^params/answer_"
# Root mean square of Muon's updates before the rate: that of Adam's, so that both take the same rates.
MUON_RMS = 0.2


def warmup_cosine(peak: float, num_steps: int, warmup_rate: float) -> optax.Schedule:
    """Linear from 0 to `peak` over the first share of the steps, then half a cosine to 0."""
    warmup = min(round(warmup_rate * num_steps), num_steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps)


def published_cosine(peak: float, num_steps: int, warmup_rate: float) -> optax.Schedule:
    """The published schedule: a linear warm-up, then a cosine of the whole progress.

    It starts at 0, falls at the end of the warm-up from `peak` to what the cosine has left by then, is 0 at
    `num_steps`, and rises again beyond.
    """

    def schedule(step: int | Int[Array, ""]) -> Float[Array, ""]:
        progress = jnp.asarray(step, jnp.float32) / num_steps
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        warming = progress / warmup_rate if warmup_rate else progress
        return peak * jnp.where(step < jnp.float32(warmup_rate * num_steps), warming, cosine)

    return schedule


def make_schedule(config: OptimizerConfig, peak: float, num_steps: int) -> optax.Schedule:
    """The learning rate of a run of `num_steps` by its step; the schedule is `schedule_share` of the run long."""
    length = max(1, round(config.schedule_share * num_steps))
    return (published_cosine if config.name == "bert_adam" else warmup_cosine)(peak, length, config.warmup_rate)


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


def is_frozen(params: PyTree, frozen: tuple[str, ...]) -> PyTree[bool]:
    """True at the parameters that a pattern of `frozen` names; see `parameter_groups`."""
    return jax.tree.map(lambda group: group == "frozen", parameter_groups(params, frozen))


def decays(params: PyTree, pattern: str = NO_DECAY_PATTERN) -> PyTree[bool]:
    """True where weight decay applies: to all names but those of the pattern."""
    return jax.tree_util.tree_map_with_path(lambda path, _: re.search(pattern, path_name(path)) is None, params)


def matrices(params: PyTree) -> PyTree[optax.contrib.MuonDimensionNumbers | None]:
    """What Muon orthogonalises: kernels with two axes; None at all else: embeddings, convolutions and classifiers."""

    def dimensions(path, leaf):
        name = path_name(path)
        is_matrix = name.endswith("/kernel") and leaf.ndim == 2 and not re.search(CLASSIFIER_PATTERN, name)
        return optax.contrib.MuonDimensionNumbers() if is_matrix else None

    return jax.tree_util.tree_map_with_path(dimensions, params)


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam whose moments are not corrected for their start at 0."""

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
    """Clips the norm of every tensor by itself."""

    def clip(update):
        return update / jnp.maximum(1.0, jnp.linalg.norm(update.ravel()) / maximum)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


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

    As `muon`, the updates of matrices are orthogonalised, and scaled to the size of Adam's; nothing but matrices
    decays. As `bert_adam`, after the global clip every tensor is clipped again, Adam's moments are not corrected, and
    all but biases decay.

    Args:
      config: The rates.
      params: The parameters, or their shapes: only paths are read.
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

    def muon(peak: float) -> optax.GradientTransformation:
        return optax.contrib.muon(
            make_schedule(config, peak, num_steps),
            eps=config.eps,
            weight_decay=config.weight_decay,
            weight_decay_mask=decays,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=MUON_RMS,
        )

    def bert_adam(peak: float) -> optax.GradientTransformation:
        return optax.chain(
            clip_each(config.clip_norm),
            scale_by_uncorrected_adam(config.b1, config.b2, config.eps),
            optax.add_decayed_weights(
                config.weight_decay, functools.partial(decays, pattern=PUBLISHED_NO_DECAY_PATTERN)
            ),
            optax.scale_by_learning_rate(make_schedule(config, peak, num_steps)),
        )

    rule = {"adamw": adamw, "muon": muon, "bert_adam": bert_adam}[config.name]
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
