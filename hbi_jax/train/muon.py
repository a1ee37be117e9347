"""Muon, with the matrices of one shape orthogonalised together: in few large products instead of many small ones."""

import collections
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, PyTree

from hbi_jax.parallel.mesh import path_name
from hbi_jax.train.config import OptimizerConfig

# Adam optimizes the classifiers instead of Muon: Muon's authors advise it, and Muon's cost is cubic in a matrix's side.
CLASSIFIER_PATTERN = r"^params/answer_"
# Muon's updates are scaled to this root mean square, that of Adam's, so that both use the same learning rates.
MUON_RMS = 0.2


def is_matrix(params: PyTree) -> PyTree[bool]:
    """Returns True at the parameters that Muon orthogonalises: kernels with two axes, except classifiers.

    Adam optimizes the others, such as embeddings and convolutions.
    """

    def decide(path, leaf):
        name = path_name(path)
        return name.endswith("/kernel") and leaf.ndim == 2 and not re.search(CLASSIFIER_PATTERN, name)

    return jax.tree_util.tree_map_with_path(decide, params)


def scale_by_muon(eps: float) -> optax.GradientTransformation:
    """Returns `optax.contrib.scale_by_muon`, with the same state, for matrices that are stacked by their shapes."""
    alone = optax.contrib.scale_by_muon(eps=eps)
    rows_and_columns = optax.contrib.MuonDimensionNumbers(1, 2)
    stacked = optax.contrib.scale_by_muon(
        eps=eps, weight_dimension_numbers=lambda stacks: dict.fromkeys(stacks, rows_and_columns)
    )

    def update(updates, state, params=None):
        del params
        leaves, structure = jax.tree.flatten(updates)
        places = collections.defaultdict(list)
        for place, leaf in enumerate(leaves):
            places["x".join(map(str, leaf.shape))].append(place)

        def stack(matrices: Sequence[Array]) -> dict[str, Array]:
            return {shape: jnp.stack([matrices[place] for place in some]) for shape, some in places.items()}

        def unstack(stacks: dict[str, Array]) -> PyTree:
            matrices = {place: stacks[shape][row] for shape, some in places.items() for row, place in enumerate(some)}
            return structure.unflatten([matrices[place] for place in range(len(leaves))])

        turned, new = stacked.update(stack(leaves), state._replace(mu=stack(jax.tree.leaves(state.mu))))
        return unstack(turned), new._replace(mu=unstack(new.mu))

    return optax.GradientTransformation(alone.init, update)


def muon(
    config: OptimizerConfig, schedule: optax.Schedule, decays: Callable[[PyTree], PyTree[bool]]
) -> optax.GradientTransformation:
    """Returns Muon for matrices and Adam for the other parameters; its updates are those of `optax.contrib.muon`.

    Args:
      config: The optimizer's fields.
      schedule: The learning rate of both.
      decays: Tells which parameters decay; of them, matrices do.
    """

    def scaled(updates, params):
        del params
        return jax.tree.map(lambda update: MUON_RMS * max(update.shape) ** 0.5 * update, updates)

    turned = optax.chain(
        scale_by_muon(config.eps),
        optax.stateless(scaled),
        optax.add_decayed_weights(config.weight_decay, decays),
        optax.scale_by_learning_rate(schedule),
    )
    adam = optax.adamw(schedule, config.b1, config.b2, config.eps, weight_decay=0.0, nesterov=True)
    return optax.partition(
        {"muon": turned, "adam": adam},
        lambda params: jax.tree.map(lambda matrix: "muon" if matrix else "adam", is_matrix(params)),
    )
