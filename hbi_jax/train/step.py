"""The training step: loss, gradient and optimizer update, compiled once for a mesh."""

import collections
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key, PyTree

from hbi_jax.memory import give_back
from hbi_jax.parallel.mesh import batch_sharding, replicated
from hbi_jax.parallel.pairs import on_mesh
from hbi_jax.train.state import TrainState

# The scalar that says what of a step is not finite: a sum of the numbers of FAULTS, 0 if all is well.
FAULT = "fault"
FAULTS = {1: "loss/total", 2: "gradient_norm", 4: "an updated parameter"}

# Scalars by their names in the logs.
Scalars = dict[str, Float[Array, ""]]
LossFn = Callable[[PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], Scalars]]


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    seed: int = 0,
    frozen: PyTree[bool] | None = None,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Scalars]]:
    """Returns the jitted training step `(state, batch) -> (state, scalars)`.

    The state is donated. The batch is the global batch, sharded by rows along the mesh's data axis, and the loss is
    taken over all of it, so the result does not depend on the number of devices. The scalars include `gradient_norm`
    and `FAULT`.

    Args:
      loss_fn: `(params, batch, key) -> (loss, scalars)`; the key is a function of the seed and the step.
      tx: The optimizer.
      mesh: The devices.
      shardings: Sharding of the state, from `state_shardings`.
      seed: Seed of the randomness in the loss.
      frozen: True at parameters whose gradient is not computed; None if all parameters get a gradient.
      skip_nonfinite: Whether a step with a fault returns the state as it was, except for the number of the step. This
        takes memory for a second state.
    """

    def loss(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> tuple[Float[Array, ""], Scalars]:
        if frozen is not None:
            params = jax.tree.map(lambda leaf, stays: jax.lax.stop_gradient(leaf) if stays else leaf, params, frozen)
        return loss_fn(params, batch, key)

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        with on_mesh(mesh):
            (_, scalars), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        updated = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        norm = optax.tree.norm(gradients)
        # The optimizer's moments are finite if the norm is: they average gradients, and squares that the norm adds up.
        checks = (jnp.isfinite(scalars["loss/total"]), jnp.isfinite(norm), _all_finite(updated, shardings, frozen))
        fault = sum(jnp.where(good, 0.0, number) for good, number in zip(checks, FAULTS, strict=True))
        if skip_nonfinite:
            kept = jax.tree.map(lambda new, old: jnp.where(fault == 0, new, old), updated, state)
            updated = kept._replace(step=updated.step)
        return updated, {**scalars, "gradient_norm": norm, FAULT: fault}

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def compile_step(step_fn: jax.stages.Wrapped, state: TrainState, batch: PyTree) -> jax.stages.Compiled:
    """Compiles a step before its first call, and returns the compiler's memory to the system.

    Args:
      step_fn: A result of `make_train_step`.
      state, batch: The arguments of the step, or their shapes, dtypes and shardings.
    """
    compiled = step_fn.lower(state, batch).compile()
    give_back()
    return compiled


def _all_finite(state: TrainState, shardings: TrainState, frozen: PyTree[bool] | None) -> Bool[Array, ""]:
    """Returns whether all elements of all parameters that are trained are finite.

    Parameters of one shape and sharding are joined element by element before they are reduced: compilers take long for
    a reduction, and models have hundreds of parameters of a few shapes.
    """
    stays = jax.tree.map(lambda _: False, state.params) if frozen is None else frozen
    alike = collections.defaultdict(list)
    for leaf, sharding, unchanged in zip(*map(jax.tree.leaves, (state.params, shardings.params, stays)), strict=True):
        if not unchanged:
            alike[leaf.shape, sharding].append(jnp.isfinite(leaf))
    return jnp.array([functools.reduce(jnp.logical_and, found).all() for found in alike.values()]).all()
