"""Programs compiled for TPUs that are not here, where the compiler of TPUs is installed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hbi_jax.fields import ConfigError
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.plan.account import account
from hbi_jax.plan.topology import open_topology
from hbi_jax.tasks.gallery import Program

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
    # The suite keeps its programs, but cannot keep these.
    pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache"),
]

ROWS, WIDTH, TRIPS = 1024, 512, 5


@pytest.fixture(scope="module")
def topology():
    return open_topology("v5e:2x4")


@pytest.fixture(scope="module")
def mesh(topology):
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=topology.devices)


def gathered(mesh, in_loop):
    """Products of each device's rows with the rows of all, in a loop; the rows are gathered before it or in it."""

    def whole(x):
        return jax.lax.all_gather(x, "data", tiled=True)

    def per_device(x):
        everything = None if in_loop else whole(x)

        def body(x, _):
            others = whole(x) if in_loop else everything
            return jnp.tanh(x @ others.T) @ others, None

        return jax.lax.scan(body, x, None, TRIPS)[0]

    rows = PartitionSpec("data")
    function = jax.shard_map(per_device, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    sharding = NamedSharding(mesh, rows)
    return Program(jax.jit(function, in_shardings=sharding), (jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16),))


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_gather_outside_of_a_loop_and_in_it(topology, mesh, in_loop):
    found = account("step", gathered(mesh, in_loop), topology.chip)
    (gather,) = found.communication
    runs, size = (TRIPS if in_loop else 1), ROWS * WIDTH * 2
    assert (gather.kind, gather.in_loop, gather.number, gather.runs) == ("all-gather", in_loop, 1, runs)
    assert gather.size == runs * size
    # Two products of 128 x 512 x 1024 in each trip; the compiler counts the body once.
    assert found.flops == TRIPS * 2 * 2 * (ROWS // 8) * WIDTH * ROWS
    assert found.flops_counted < found.flops / 2
    assert (found.loops, found.iterations, found.unknown_loops) == (1, TRIPS, 0)
    assert found.fits is True
    # What is read again in every trip stays on the chip.
    assert found.on_chip_bytes > TRIPS * size
    assert found.hbm_bytes < 2 * TRIPS * size


def test_what_is_too_large_does_not_fit(topology):
    one = jax.sharding.SingleDeviceSharding(topology.devices[0])
    program = Program(
        jax.jit(lambda x: jnp.sin(x @ x) @ x, in_shardings=one), (jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32),)
    )
    found = account("product", program, topology.chip)
    assert found.fits is False
    assert found.needed > topology.chip.usable


def test_v4_has_one_device_for_each_chip():
    assert len(open_topology("v4:2x2x1").devices) == 4
    assert len(open_topology("v5e:1x1").devices) == 1


def test_slices_are_several_of_the_same():
    devices = open_topology("v5e:2x2", slices=2).devices
    assert [device.slice_index for device in devices] == [0] * 4 + [1] * 4
    assert make_mesh(devices=devices, slices=2).shape == {"data": 8, "model": 1}


def test_a_slice_that_does_not_exist_is_told():
    with pytest.raises(ConfigError, match=r"--topology=v5e:3x3: libtpu knows no such slice \(.*3x3.*\); wanted one"):
        open_topology("v5e:3x3")
