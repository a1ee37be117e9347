"""The account of a program, of a chip with round numbers."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hbi_jax.plan import account as account_module
from hbi_jax.plan.account import Bounds, CompileError, account, needed_bytes
from hbi_jax.plan.chips import CHIPS, Chip
from hbi_jax.tasks.gallery import Program
from tests.logs import told

WIDTH = 64
CHIP = Chip(
    name="round",
    memory=10**6,
    usable=1e6,
    flops=1e9,
    bandwidth=1e8,
    interconnect=1e6,
    most=8,
    per_host=4,
    source="",
)


@pytest.fixture(scope="module")
def product():
    """Rows on eight devices times a matrix, summed over the devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (("data",), ()))

    def function(x, w):
        return jax.shard_map(
            lambda x, w: jax.lax.psum(x.T @ (x @ w), "data"),
            mesh=mesh,
            in_specs=(PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,
        )(x, w)

    arguments = (
        jax.ShapeDtypeStruct((8 * 16, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32),
    )
    return Program(jax.jit(function, in_shardings=(rows, everywhere)), arguments)


def test_the_account_of_a_product(product):
    found = account("product", product, CHIP)
    assert found.name == "product"
    assert found.fits is True
    matrix, rows = WIDTH * WIDTH * 4, 16 * WIDTH * 4
    assert found.flops == 2 * 2 * 16 * WIDTH * WIDTH
    assert (found.memory.arguments, found.memory.results) == (matrix + rows, matrix)
    assert found.memory.peak >= found.memory.arguments + found.memory.results
    (summed,) = found.communication
    assert (summed.kind, summed.in_loop, summed.number, summed.runs, summed.size) == ("all-reduce", False, 1, 1, matrix)
    np.testing.assert_allclose(summed.sent, 2 * matrix * 7 / 8)
    np.testing.assert_allclose(found.bounds.compute, 1e3 * found.flops / 1e9)
    np.testing.assert_allclose(found.bounds.interconnect, 1e3 * summed.sent / 1e6)
    np.testing.assert_allclose(found.bounds.memory, 1e3 * found.hbm_bytes / 1e8)
    assert found.bounds.binds == "interconnect"
    np.testing.assert_allclose(found.utilisation, found.bounds.compute / found.bounds.interconnect)
    assert (found.loops, found.iterations, found.unknown_loops, found.kernels) == (0, 0, 0, ())
    assert found.instructions > 0
    assert found.compile_seconds > 0


def test_more_than_a_chip_has_does_not_fit(product):
    found = account("product", product, CHIP._replace(usable=1e4))
    assert found.fits is False
    assert found.memory.peak > 10**4


def test_devices_of_unknown_peaks_have_no_bounds(product):
    found = account("product", product, None)
    assert (found.fits, found.bounds, found.utilisation) == (None, None, None)


def test_two_times_without_and_with_overlap():
    bounds = Bounds(compute=3.0, memory=5.0, interconnect=1.0)
    assert (bounds.binds, bounds.overlapped, bounds.in_turn) == ("memory", 5.0, 9.0)
    assert dataclasses.replace(bounds, compute=6.0).binds == "compute"


class Refusing:
    """A jitted function whose compiler refuses it."""

    def __init__(self, message):
        self.message = message

    def lower(self, *arguments):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


HBM = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (40.00G) exceeds "
    "available HBM (15.75G)."
)


def test_what_the_compiler_finds_too_large_does_not_fit():
    found = account("step", Program(Refusing(HBM), ()), CHIPS["v5e"])
    assert (found.fits, found.needed, found.memory, found.bounds) == (False, 40 * 2**30, None, None)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (HBM, 40 * 2**30),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.12G "
            "of 15.75G hbm. Exceeded hbm capacity by 1.37G.",
            17.12 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: something about hbm", None),
    ],
)
def test_the_message_tells_how_much_is_needed(message, needed):
    assert needed_bytes(message) == needed


@pytest.mark.parametrize(
    "message", ["INTERNAL: Mosaic failed\nat length", "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem."]
)
def test_other_refusals_are_told(message):
    with pytest.raises(
        CompileError, match=r"step: the compiler refused it: .*try another topology, or report it"
    ) as told:
        account("step", Program(Refusing(message), ()), CHIPS["v5e"])
    assert "\n" not in str(told.value)


def test_a_long_compilation_says_that_it_goes_on(caplog):
    with caplog.at_level("INFO", "hbi_jax.plan.account"), account_module._told("step", interval=0.01):
        time.sleep(0.1)
    first, *between, last = [record.getMessage() for record in told(caplog)]
    assert (first, last) == ("compiling step", "compiled step in 0:01")
    assert between
    assert set(between) == {"still compiling step, for 0:01"}


def test_published_peaks():
    """As the pages of Cloud TPU give them; a program may use about what a chip has."""
    assert list(CHIPS) == ["v4", "v5e", "v5p", "v6e"]
    for chip in CHIPS.values():
        assert 0.95 < chip.usable / chip.memory < 1.01
        assert chip.source.startswith("https://cloud.google.com/tpu/docs/")
    # 819 GB/s and 197 TFLOP/s: 240 operations a byte.
    np.testing.assert_allclose(CHIPS["v5e"].flops / CHIPS["v5e"].bandwidth, 240.5, rtol=1e-3)
