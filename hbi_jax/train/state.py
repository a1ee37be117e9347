"""What a training step carries on: step number, parameters and the optimizer's state."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from hbi_jax.parallel import abstract_params


class TrainState(NamedTuple):
    """A pytree; the optimizer and the model are not part of it.

    Attributes:
      step: Updates made so far.
      params: The model's variables, `{"params": ...}`.
      opt_state: State of the optimizer.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


def abstract_state(init_params: Callable[[], PyTree], tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state that `init_state` makes; nothing is computed."""
    return abstract_params(jax.eval_shape(lambda: _make(init_params, tx)), mesh)


def init_state(init_params: Callable[[], PyTree], tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Initialises every parameter where it will lie.

    Args:
      init_params: Makes the parameters.
      tx: The optimizer.
      mesh: The devices.
    """
    shardings = state_shardings(abstract_state(init_params, tx, mesh))
    # A program of its own: the one that makes the model before training, for its row in the report.
    params = jax.jit(init_params, out_shardings=shardings.params)()
    opt_state = jax.jit(tx.init, out_shardings=shardings.opt_state)(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), shardings.step), params, opt_state)


def state_shardings(state: TrainState) -> TrainState:
    """Where each leaf of a state, abstract or not, lies."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def _make(init_params: Callable[[], PyTree], tx: optax.GradientTransformation) -> TrainState:
    params = init_params()
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
