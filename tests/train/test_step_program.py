"""The compiled step of HBI and HBI V2 on eight devices: what it moves, and how often its loops run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from hbi_jax.models import similarity
from hbi_jax.models.config import Level
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.plan.account import account
from hbi_jax.tasks.gallery import Program
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.config import AlignmentLossConfig, OptimizerConfig
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.state import abstract_state, state_shardings
from hbi_jax.train.step import make_train_step
from hbi_jax.train.teacher import exact_teacher
from tests.tiny_hbi import CONFIG as FULL
from tests.tiny_hbi import make_batch

# Without towers' layers, so that the step is mostly pairs.
CONFIG = dataclasses.replace(
    FULL,
    clip=dataclasses.replace(FULL.clip, text_layers=0, vision_layers=0),
    levels=(Level("entity"),),
    frame_layers=0,
    gate_features=8,
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, clip_learning_rate=1e-3)


def step_of(config, rows):
    """The account of the step for a batch of so many rows, in blocks of 16 videos a device."""
    mesh, model, batch = make_mesh(8, 1), HBI(config), jax.tree.map(jnp.asarray, make_batch(rows))
    params = functools.partial(model.init, jax.random.key(0), batch)
    tx = make_optimizer(OPTIMIZER, jax.eval_shape(params), 10)
    state = abstract_state(params, tx, mesh)
    loss = functools.partial(retrieval_loss, model, AlignmentLossConfig(), exact_teacher(1.0))
    step = make_train_step(loss, tx, mesh, state_shardings(state))
    return account("train_step", Program(step, (state, jax.eval_shape(lambda: batch))), None)


def moved(found, kind):
    """The number of collectives of a kind, and their bytes."""
    some = [part for part in found.communication if part.kind == kind]
    return sum(part.number for part in some), sum(part.size for part in some)


@pytest.mark.parametrize("reconstruction", [False, True], ids=["HBI", "HBI V2"])
def test_what_the_step_moves_does_not_depend_on_its_blocks(reconstruction, monkeypatch):
    """Left to the compiler, loops over blocks gather or reduce in every iteration."""
    # Otherwise the pairs of so small a batch are held at once.
    monkeypatch.setattr(similarity, "_WHOLE_BYTES", {"other": 0})
    config = dataclasses.replace(CONFIG, reconstruction=reconstruction)
    one, two = step_of(config, 128), step_of(config, 256)
    for found in (one, two):
        assert not [part for part in found.communication if part.in_loop]
        assert found.unknown_loops == 0
    assert moved(one, "all-gather")[0] == moved(two, "all-gather")[0] > 0
    # Twice the rows: at most twice the bytes, though there are four times the pairs.
    assert moved(two, "all-gather")[1] <= 2.1 * moved(one, "all-gather")[1]
    # 16 blocks of 16 videos for one device are 2 for each of eight, and one for 128 rows.
    assert two.iterations <= 2 * one.iterations + 8


def test_parameters_of_one_shape_are_checked_by_one_reduction():
    """Models have hundreds of parameters, and compilers take long for a reduction."""
    mesh = make_mesh(1, 1, jax.devices()[:1])
    params = {"params": {f"layer_{number}": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)} for number in range(9)}}
    tx = make_optimizer(OPTIMIZER, params, 10)

    def loss(params, batch, key):
        value = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)) * batch.sum()
        return value, {"loss/total": value}

    state = abstract_state(lambda: params, tx, mesh)
    step = make_train_step(loss, tx, mesh, state_shardings(state))
    text = step.lower(state, jnp.ones(2)).as_text()
    assert text.count("is_finite") == 9 * 2 + 2
    assert text.count("applies stablehlo.and") == 2 + 1
