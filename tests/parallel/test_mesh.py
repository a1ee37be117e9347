"""Meshes, which parameter lies where, and how a batch is spread."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import (
    abstract_params,
    batch_sharding,
    local_rows,
    make_mesh,
    param_shardings,
    path_name,
    put_batch,
    put_everywhere,
    replicated,
)
from hbi_jax.train.config import OptimizerConfig
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.state import abstract_state
from tests.tiny_hbi import CONFIG, make_batch

OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3,
    clip_learning_rate=1e-4,
    warmup_rate=0.1,
    weight_decay=0.2,
    b1=0.9,
    b2=0.98,
    eps=1e-6,
    clip_norm=1.0,
    frozen=("vision_tower/patch_embedding",),
    max_logit_scale=100.0,
)


def init_params():
    return HBI(CONFIG).init(jax.random.key(0), jax.tree.map(jnp.asarray, make_batch(2)))


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(init_params)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(4, 2)


def named(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("data", "model", "devices", "shape"),
    [(-1, 1, 8, (8, 1)), (-1, 2, 8, (4, 2)), (2, 4, 8, (2, 4)), (-1, 1, 1, (1, 1))],
)
def test_meshes(data, model, devices, shape):
    mesh = make_mesh(data, model, jax.devices()[:devices])
    assert mesh.axis_names == ("data", "model")
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices()[:devices])


@pytest.mark.parametrize(("data", "model"), [(3, 1), (-1, 3), (8, 2), (0, 1), (-1, 16), (4, 1), (-2, -4), (-1, 0)])
def test_a_mesh_that_the_devices_do_not_fill(data, model):
    given = f"config.mesh.data={data} x config.mesh.model={model} is not the 8 devices"
    with pytest.raises(ValueError, match=f"{given}.*use config.mesh.data=-1"):
        make_mesh(data, model)


def test_where_the_parameters_lie(shapes, mesh):
    """The wide products of every transformer and the token table are cut along `model`; nothing else is cut."""
    blocks = [f"params/{part}/transformer/resblocks_0" for part in ("frame_transformer", "text_tower", "vision_tower")]
    wanted = {"params/text_tower/token_embedding/embedding": ("model", None)}
    for block in blocks:
        for wide in ("attn/in_proj", "mlp_fc"):
            wanted |= {f"{block}/{wide}/kernel": (None, "model"), f"{block}/{wide}/bias": ("model",)}
        for narrow in ("attn/out_proj", "mlp_proj"):
            wanted |= {f"{block}/{narrow}/kernel": ("model", None)}
    got = named(param_shardings(shapes, mesh))
    assert got.keys() == named(shapes).keys()
    assert {name: tuple(x.spec) for name, x in got.items() if tuple(x.spec)} == wanted
    assert all(x.mesh == mesh for x in got.values())


def test_the_moments_lie_with_their_parameter(shapes, mesh):
    tx = make_optimizer(OPTIMIZER, shapes, 10)
    state = abstract_state(init_params, tx, mesh)
    where = {name: leaf.sharding.spec for name, leaf in named(state.params).items()}
    followers = dict.fromkeys(where, 0)
    for path, leaf in named(state.opt_state).items():
        name = re.search(r"params/.*", path)
        assert leaf.sharding.spec == (where[name[0]] if name else PartitionSpec()), path
        if name:
            followers[name[0]] += 1
    assert {name for name, count in followers.items() if count != 2} == {"params/vision_tower/patch_embedding/kernel"}
    assert state.step.sharding.spec == PartitionSpec()


def test_slices_are_neighbours_along_the_batch():
    """Simulated devices know of no slice: equal shares stand for slices."""
    mesh = make_mesh(-1, 2, slices=2)
    numbers = np.vectorize(lambda device: device.id)(mesh.devices)
    assert numbers.shape == (4, 2)
    assert set(numbers[:2].flat) == {0, 1, 2, 3}
    for data, slices in ((4, 3), (2, 8)):
        with pytest.raises(ValueError, match=rf"config.mesh.slices={slices}: got .* groups of .*wanted as many groups"):
            make_mesh(data, 8 // data, slices=slices)


def test_fully_sharded_parameters(mesh):
    """The largest dimension that is free and divides goes along the data axis; small arrays stay whole."""
    shapes = {"out_proj/kernel": (512, 128), "token_embedding/embedding": (1000, 64), "proj/kernel": (130, 512)}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    tree |= {"bias": jax.ShapeDtypeStruct((512,), jnp.float32), "odd": jax.ShapeDtypeStruct((129, 255), jnp.float32)}
    got = {name: tuple(x.spec) for name, x in param_shardings({"x": tree}, mesh, fsdp=True)["x"].items()}
    assert got == {
        "out_proj/kernel": ("model", "data"),
        "token_embedding/embedding": ("model", "data"),
        "proj/kernel": (None, "data"),
        "bias": (),
        "odd": (),
    }


def test_abstract_params_keep_shape_and_type(shapes, mesh):
    got = named(abstract_params(shapes, mesh))
    for name, leaf in named(shapes).items():
        assert (got[name].shape, got[name].dtype) == (leaf.shape, leaf.dtype)
        assert got[name].sharding == named(param_shardings(shapes, mesh))[name]


def test_a_dimension_that_cannot_be_cut_is_named(shapes):
    mesh = make_mesh(2, 3, jax.devices()[:6])
    name = "params/frame_transformer/transformer/resblocks_0/attn/out_proj/kernel"
    message = (
        rf"parameter {name}: dimension 0 of \(32, 32\) is not divisible by the 3 devices of mesh axis 'model'; "
        "use a config.mesh.model that divides it"
    )
    with pytest.raises(ValueError, match=message):
        param_shardings(shapes, mesh)


def test_a_parameter_without_a_rule_is_named(mesh):
    with pytest.raises(ValueError, match="no sharding rule matches parameter head/bias"):
        param_shardings({"head": {"bias": jnp.zeros(2)}}, mesh, rules=((r"kernel$", PartitionSpec()),))


def test_the_first_rule_wins(mesh):
    rules = ((r"kernel$", PartitionSpec("model")), (r"", PartitionSpec()))
    got = named(param_shardings({"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}, mesh, rules))
    assert (got["kernel"].spec, got["bias"].spec) == (PartitionSpec("model"), PartitionSpec())


def test_batches_are_spread_by_rows(mesh):
    """Two rows on each of the four places along `data`, the same ones on both along `model`."""
    batch = make_batch(8)
    placed = put_batch(batch, mesh)
    for got, wanted in zip(jax.tree.leaves(placed), jax.tree.leaves(batch), strict=True):
        assert got.sharding == batch_sharding(mesh)
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype
        for shard in got.addressable_shards:
            place = int(np.argwhere(mesh.devices == shard.device)[0, 0])
            np.testing.assert_array_equal(shard.data, wanted[2 * place : 2 * place + 2])


def mesh_of(processes):
    """A mesh whose devices belong to the given processes, one row for each place along `data`."""
    devices = np.empty(np.shape(processes), object)
    for place, process in np.ndenumerate(processes):
        devices[place] = _Device(int(np.ravel_multi_index(place, devices.shape)), int(process))
    return Mesh(devices, ("data", "model"))


@dataclasses.dataclass(frozen=True)
class _Device:
    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


@pytest.mark.parametrize(
    ("processes", "rows"),
    [
        ([[0], [0], [1], [1]], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([[0, 0], [1, 1]], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([[0, 1], [0, 1]], [list(range(8))] * 2),
        ([[0, 0, 1, 1]], [list(range(8))] * 2),
        ([[0, 1, 2, 3]], [list(range(8))] * 4),
        ([[0], [1], [0], [1]], [[0, 1, 4, 5], [2, 3, 6, 7]]),
        # Three processes of two devices: the middle one holds a part of either row.
        ([[0, 0, 1], [1, 2, 2]], [[0, 1, 2, 3], list(range(8)), [4, 5, 6, 7]]),
    ],
    ids=str,
)
def test_rows_follow_from_the_mesh(processes, rows):
    found = [local_rows(mesh_of(processes), 8, process).tolist() for process in range(len(rows))]
    assert found == rows


def test_rows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="batch_size: got 3, wanted a multiple of the 2 devices"):
        local_rows(mesh_of([[0], [1]]), 3, 0)
    with pytest.raises(ValueError, match="without a device of process 2"):
        local_rows(mesh_of([[0], [1]]), 2, 2)


def test_arrays_that_every_process_has(mesh):
    x = np.arange(16).reshape(8, 2)
    for sharding in (batch_sharding(mesh), replicated(mesh)):
        placed = put_everywhere(x, sharding)
        assert placed.sharding == sharding
        np.testing.assert_array_equal(placed, x)


def test_replicated_is_whole_everywhere(mesh):
    x = jax.device_put(jnp.arange(3), replicated(mesh))
    assert [shard.data.tolist() for shard in x.addressable_shards] == [[0, 1, 2]] * 8
