"""One update: loss, gradient, optimizer, compiled once for a mesh."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from hbi_jax.parallel.mesh import batch_sharding, replicated
from hbi_jax.train.state import TrainState

# Scalars by the name under which they are logged.
Scalars = dict[str, Float[Array, ""]]
LossFn = Callable[[PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], Scalars]]


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    seed: int = 0,
    frozen: PyTree[bool] | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Scalars]]:
    """Compiles `(state, batch) -> (state, scalars)`.

    The state is donated. The batch is the global one, its rows spread along the mesh's data axis, and so is
    every loss over it: what it computes does not depend on the number of devices.

    Args:
      loss_fn: `(params, batch, key) -> (loss, scalars)`; the key is a function of the seed and the step.
      tx: The optimizer.
      mesh: The devices.
      shardings: Where the state lies, from `init_state`.
      seed: Of what is random in the loss.
      frozen: True at parameters that get no gradient, so that none is computed; None: all get one.
    """

    def loss(params: PyTree, batch: PyTree, key: Key[Array, ""]) -> tuple[Float[Array, ""], Scalars]:
        if frozen is not None:
            params = jax.tree.map(lambda leaf, stays: jax.lax.stop_gradient(leaf) if stays else leaf, params, frozen)
        return loss_fn(params, batch, key)

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, scalars), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        scalars = {**scalars, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, opt_state), scalars

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )
