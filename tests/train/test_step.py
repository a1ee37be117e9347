"""The training step: the same on any devices, one trace, a donated state, masked rows without influence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hbi_jax.models.config import Level
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh, path_name, put_batch
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.train.config import AlignmentLossConfig, OptimizerConfig
from hbi_jax.train.optimizer import is_frozen, make_optimizer
from hbi_jax.train.state import TrainState, init_state, state_shardings
from hbi_jax.train.step import FAULT, make_train_step
from hbi_jax.train.teacher import exact_teacher
from tests.optimized import compile_optimized
from tests.tiny_hbi import CONFIG as FULL
from tests.tiny_hbi import make_batch, random_params

# One module of each kind: these tests are compilation, three times over.
CONFIG = dataclasses.replace(
    FULL,
    clip=dataclasses.replace(FULL.clip, text_layers=0),
    levels=(Level("entity"), Level("action", 0, 3)),
    frame_layers=0,
)
ENTITIES = dataclasses.replace(CONFIG, levels=CONFIG.levels[:1])
ROWS, STEPS = 8, 3
# Some gradients are zero but for rounding (a bias before a softmax); Adam makes updates of them where they exceed
# eps, so eps is between them and the others, of about 1 / sqrt(number of parameters).
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3,
    clip_learning_rate=1e-3,
    warmup_rate=0.0,
    weight_decay=0.2,
    b1=0.9,
    b2=0.98,
    eps=1e-3,
    clip_norm=1.0,
    frozen=(),
    max_logit_scale=100.0,
)
# The published factor of 1000 makes a teacher that is all or nothing, which says more about rounding than about us.
TEACHER = exact_teacher(100.0)
LOSS = AlignmentLossConfig()
LEVELS = [level.name for level in CONFIG.levels]


def batch_of(step):
    """Another batch for each step; two rows are captions of one video, the last stands for nothing."""
    batch = make_batch(ROWS, seed=step)
    video_index, example_mask = batch.video_index.copy(), batch.example_mask.copy()
    video_index[3], example_mask[-1] = video_index[2], False
    return batch._replace(video_index=video_index, example_mask=example_mask)


@pytest.fixture(scope="module")
def params():
    return random_params(HBI(CONFIG), jax.tree.map(jnp.asarray, batch_of(0)))


@pytest.fixture(scope="module")
def of_entities(params):
    """The parameters of the entity level, for tests in which levels make no difference."""
    shapes = jax.eval_shape(HBI(ENTITIES).init, jax.random.key(0), jax.tree.map(jnp.asarray, batch_of(0)))
    return {"params": {name: params["params"][name] for name in shapes["params"]}}


class Run:
    """A compiled step on some devices, counting its traces."""

    def __init__(self, params, data, model, optimizer=OPTIMIZER, config=CONFIG, fsdp=False):
        self.traces, self.fsdp = 0, fsdp
        self.mesh = make_mesh(data, model, jax.devices()[: data * model])
        self.tx = make_optimizer(optimizer, params, 10)
        self.first = lambda: jax.tree.map(jnp.asarray, params)
        self.shardings = state_shardings(self.state())
        self.step = make_train_step(self.loss(HBI(config)), self.tx, self.mesh, self.shardings)

    def loss(self, model):
        def loss(params, batch, key):
            self.traces += 1
            return retrieval_loss(model, LOSS, TEACHER, params, batch, key)

        return loss

    def state(self) -> TrainState:
        return init_state(self.first, self.tx, self.mesh, self.fsdp)

    def __call__(self, *batches):
        """State and scalars after the batches."""
        state, scalars = self.state(), []
        for batch in batches:
            state, row = self.step(state, put_batch(batch, self.mesh))
            scalars.append(jax.tree.map(float, row))
        return state, scalars


@pytest.fixture(scope="module")
def alone(params):
    return Run(params, 1, 1)


@pytest.fixture(scope="module")
def by_rows(params):
    return Run(params, 8, 1)


@pytest.fixture(scope="module")
def wanted(alone):
    """Three steps on one device."""
    return jax.tree.map(np.asarray, alone(*map(batch_of, range(STEPS))))


def assert_near(got, wanted):
    """Losses to 2e-5; parameters, of order 1, to 2e-6 where three updates move them by up to 3e-3."""
    (state, scalars), (wanted_state, wanted_scalars) = got, wanted
    for row, wanted_row in zip(scalars, wanted_scalars, strict=True):
        assert row.keys() == wanted_row.keys()
        for name, value in row.items():
            np.testing.assert_allclose(value, wanted_row[name], rtol=2e-5, atol=2e-6, err_msg=name)
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(wanted_state.params), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=2e-6, err_msg=path_name(path))
    assert int(state.step) == STEPS


def test_terms_add_up(wanted):
    """Under their true names, with the weights of Eq. 14 and 16."""
    terms = {f"loss/{level}/{term}" for level in LEVELS for term in ("contrastive", "interaction")}
    terms.add("loss/action/distillation")
    for row in wanted[1]:
        assert set(row) == terms | {"loss/total", "logit_scale", "gradient_norm", FAULT}
        assert row[FAULT] == 0
        np.testing.assert_allclose(row["loss/total"], sum(row[name] for name in terms), rtol=1e-5)
        assert min(row[name] for name in terms) > 1e-4
    np.testing.assert_allclose(wanted[1][0]["logit_scale"], 1 / 0.07, rtol=1e-5)


def test_parameters_move(params, wanted):
    """So that equal ones mean something."""
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), wanted[0].params, params)
    assert np.median(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
def test_what_is_frozen_costs_no_gradient(of_entities):
    """Everything else moves as with an optimizer that throws these gradients away.

    Without the interaction, whose optimized program takes the longest to compile.
    """
    loss = dataclasses.replace(LOSS, interaction_weight=0.0)
    objective = functools.partial(retrieval_loss, HBI(ENTITIES), loss, TEACHER)
    names = ("vision_tower", "frame_transformer")
    tx = make_optimizer(dataclasses.replace(OPTIMIZER, frozen=names), of_entities, 10)
    mesh = make_mesh(1, 1, jax.devices()[:1])

    def state():
        return init_state(lambda: jax.tree.map(jnp.asarray, of_entities), tx, mesh)

    compiled, after = [], []
    for frozen in (None, is_frozen(of_entities, names)):
        step = make_train_step(objective, tx, mesh, state_shardings(state()), 0, frozen)
        batch = put_batch(batch_of(0), mesh)
        compiled.append(compile_optimized(step.lower(state(), batch)))
        after.append(compiled[-1](state(), batch))
    flops = [program.cost_analysis()["flops"] for program in compiled]
    assert flops[1] < 0.8 * flops[0]
    (all_state, all_scalars), (state, scalars) = after
    assert scalars["gradient_norm"] < all_scalars["gradient_norm"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), state.params, all_state.params)
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, state.params["params"][name], of_entities["params"][name])


def test_eight_devices_along_the_rows(by_rows, wanted):
    assert_near(by_rows(*map(batch_of, range(STEPS))), wanted)


@pytest.mark.parametrize(("fsdp", "share"), [(False, (32, 64)), (True, (8, 64))])
def test_four_by_two_devices(params, wanted, fsdp, share, monkeypatch):
    monkeypatch.setattr("hbi_jax.parallel.mesh._FSDP_SIZE", 1)
    run = Run(params, 4, 2, fsdp=fsdp)
    got = run(*map(batch_of, range(STEPS)))
    assert_near(got, wanted)
    kernel = got[0].params["params"]["vision_tower"]["transformer"]["resblocks_0"]["mlp_fc"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {share}


@pytest.mark.slow
def test_muon_on_four_by_two_devices(of_entities):
    """It multiplies matrices whose columns lie on two devices."""
    muon = dataclasses.replace(OPTIMIZER, name="muon")
    batches = [batch_of(step) for step in range(STEPS)]
    many, one = (Run(of_entities, *devices, muon, ENTITIES)(*batches) for devices in ((4, 2), (1, 1)))
    assert_near(many, jax.tree.map(np.asarray, one))


def test_one_trace_for_all_steps(by_rows, alone, wanted):
    by_rows(batch_of(7), batch_of(8))
    assert (by_rows.traces, alone.traces) == (1, 1)


def test_the_state_is_donated_and_the_batch_is_not(by_rows):
    state, batch = by_rows.state(), put_batch(batch_of(0), by_rows.mesh)
    by_rows.step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))


def test_shardings_go_round(by_rows):
    """What comes out lies where what went in lay, so that the next step is the same program."""
    state, _ = by_rows(batch_of(0))
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, state, by_rows.shardings))


def test_what_a_masked_row_holds_has_no_influence(alone):
    """Other words, other frames, no frame at all: the same numbers, bit by bit."""
    batch, other = batch_of(0), make_batch(ROWS, seed=99)
    last = np.arange(ROWS) == ROWS - 1

    def mixed(x, y):
        return np.where(last.reshape(-1, *(1,) * (x.ndim - 1)), y, x).astype(x.dtype)

    changed = jax.tree.map(mixed, batch, other)
    changed = changed._replace(example_mask=batch.example_mask, video_index=mixed(batch.video_index, 1))
    empty = batch._replace(
        text_mask=mixed(batch.text_mask, False),
        frame_mask=mixed(batch.frame_mask, False),
        token_ids=mixed(batch.token_ids, 0),
        frames=mixed(batch.frames, 0),
    )
    results = [jax.tree.map(np.asarray, alone(x)) for x in (batch, changed, empty)]
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])


def test_a_batch_with_a_masked_row_is_the_batch_without_it(params, wanted):
    """Its loss and terms; the gradient has been compared with that of any other content of the row."""
    few = jax.tree.map(lambda x: jnp.asarray(x[:-1]), batch_of(0))
    _, terms = jax.jit(functools.partial(retrieval_loss, HBI(CONFIG), LOSS, TEACHER))(params, few, jax.random.key(0))
    for name, value in terms.items():
        np.testing.assert_allclose(value, wanted[1][0][name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_weights_of_zero_leave_their_terms_out(params):
    """Neither computed nor returned; a weight multiplies its term."""
    batch = jax.tree.map(jnp.asarray, batch_of(0))

    def terms(**weights):
        config = dataclasses.replace(LOSS, **weights)
        return jax.eval_shape(
            functools.partial(retrieval_loss, HBI(CONFIG), config, TEACHER), params, batch, jax.random.key(0)
        )[1]

    contrastive = {"loss/total", "logit_scale", "loss/entity/contrastive", "loss/action/contrastive"}
    assert set(terms(interaction_weight=0.0, distillation_weight=0.0)) == contrastive
    assert set(terms(interaction_weight=0.0)) == contrastive | {"loss/action/distillation"}


def test_bfloat16_is_finite_and_close(of_entities, wanted):
    """Entity level alone, where rounding moves no token to another cluster: 5 % of the loss. The state is float32."""
    model, few = HBI(dataclasses.replace(ENTITIES, dtype="bfloat16")), of_entities
    mesh, tx = make_mesh(1, 1, jax.devices()[:1]), optax.sgd(1e-3)
    state = init_state(lambda: jax.tree.map(jnp.asarray, few), tx, mesh)
    step = make_train_step(functools.partial(retrieval_loss, model, LOSS, TEACHER), tx, mesh, state_shardings(state))
    for number in range(2):
        state, scalars = step(state, put_batch(batch_of(0), mesh))
        if number == 0:
            for term in ("contrastive", "interaction"):
                name = f"loss/entity/{term}"
                np.testing.assert_allclose(scalars[name], wanted[1][0][name], rtol=0.05)
        assert all(np.isfinite(value) for value in scalars.values())
    before = dict(jax.tree_util.tree_leaves_with_path(few))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != before[path]) or not path_name(path).endswith("kernel")
