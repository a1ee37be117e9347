"""The training program of a task: its optimizer, the shapes of its state, and its step. None of it needs data."""

import jax
import optax
from jax.sharding import Mesh

from hbi_jax.fields import ConfigError
from hbi_jax.parallel.mesh import DATA_AXIS
from hbi_jax.tasks.config import Config
from hbi_jax.tasks.task import Task
from hbi_jax.train.optimizer import is_frozen, make_optimizer
from hbi_jax.train.state import TrainState, abstract_state, state_shardings
from hbi_jax.train.step import make_train_step


def make_state(task: Task, num_steps: int) -> tuple[optax.GradientTransformation, TrainState]:
    """Returns the optimizer of a task, and the shapes, dtypes and shardings of its training state.

    Args:
      task: The task.
      num_steps: Length of the run, for the schedule of the learning rate.
    """
    tx = make_optimizer(task.config.optimizer, jax.eval_shape(task.init_params), num_steps)
    return tx, abstract_state(task.init_params, tx, task.mesh, task.config.mesh.fsdp)


def make_step(task: Task, tx: optax.GradientTransformation, abstract: TrainState) -> jax.stages.Wrapped:
    """Returns the jitted training step of a task, a function of the state and a batch as `task.abstract_batch()`.

    Args:
      task: The task.
      tx, abstract: The result of `make_state`.
    """
    config = task.config
    return make_train_step(
        task.loss_fn(),
        tx,
        task.mesh,
        state_shardings(abstract),
        config.seed,
        is_frozen(abstract.params, config.optimizer.frozen),
        skip_nonfinite=config.train.skip_nonfinite > 0,
    )


def check_batch_size(config: Config, mesh: Mesh) -> None:
    """Raises ConfigError unless the rows of a batch can be shared out to the devices."""
    rows = mesh.shape[DATA_AXIS]
    if config.train.batch_size % rows:
        raise ConfigError(
            f"config.train.batch_size={config.train.batch_size}: wanted a multiple of the {rows} devices along "
            f"the mesh's data axis; use {-(-config.train.batch_size // rows) * rows}"
        )
