"""The training state: step number, parameters and optimizer state."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from hbi_jax.parallel.mesh import abstract_params


class TrainState(NamedTuple):
    """The state that a training step updates; a pytree without the optimizer and the model.

    Attributes:
      step: Number of updates so far.
      params: The model's variables, `{"params": ...}`.
      opt_state: State of the optimizer.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


def abstract_state(
    init_params: Callable[[], PyTree], tx: optax.GradientTransformation, mesh: Mesh, fsdp: bool = False
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state that `init_state` returns, without computing it."""
    return abstract_params(jax.eval_shape(lambda: _make(init_params, tx)), mesh, fsdp)


def init_state(
    init_params: Callable[[], PyTree], tx: optax.GradientTransformation, mesh: Mesh, fsdp: bool = False
) -> TrainState:
    """Returns the initial state, with every parameter initialised on its own devices.

    Args:
      init_params: Returns the parameters.
      tx: The optimizer.
      mesh: The devices.
      fsdp: Whether the state is spread over the data axis, see `param_shardings`.
    """
    shardings = state_shardings(abstract_state(init_params, tx, mesh, fsdp))
    # A program of its own: the one that makes the model before training, for its row in the report.
    params = jax.jit(init_params, out_shardings=shardings.params)()
    opt_state = jax.jit(tx.init, out_shardings=shardings.opt_state)(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), shardings.step), params, opt_state)


def state_shardings(state: TrainState) -> TrainState:
    """Returns the sharding of every leaf of a state, abstract or concrete."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def _make(init_params: Callable[[], PyTree], tx: optax.GradientTransformation) -> TrainState:
    params = init_params()
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
