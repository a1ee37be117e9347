"""Operations and bytes of compiled programs, against sums by hand and the compiler's own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbi_jax.plan.costs import costs
from hbi_jax.plan.hlo import Program
from tests.optimized import compile_optimized
from tests.plan.test_hlo import TPU


def compiled(function, *shapes):
    return compile_optimized(jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def cost_of(function, *shapes):
    return costs(Program(compiled(function, *shapes).as_text()))


def test_a_product_has_two_operations_for_each_term():
    assert cost_of(jnp.matmul, (5, 7), (7, 11)).flops == 2 * 5 * 7 * 11
    assert cost_of(lambda x, y: jnp.einsum("bij,bkj->bik", x, y), (3, 5, 7), (3, 11, 7)).flops == 2 * 3 * 5 * 7 * 11


def test_products_in_loops_count_as_often_as_they_run():
    def function(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, None, 6)[0]

    once = 2 * 16**3
    assert cost_of(function, (16, 16)).flops == 6 * once
    # Unlike in the compiler's count.
    assert compiled(function, (16, 16)).cost_analysis()["flops"] < 2 * once


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "VALID"},
        {"window_strides": (2, 3), "padding": "SAME"},
        {"window_strides": (1, 1), "padding": ((2, 1), (0, 3)), "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 3)},
    ],
)
def test_convolutions_count_as_the_compiler_counts_them(options):
    """Terms that meet padding or gaps are none."""

    def function(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    program = compiled(function, (2, 9, 8, 3), (3, 3, 3, 5))
    found = costs(Program(program.as_text())).flops
    assert found == program.cost_analysis()["flops"] > 0


def test_products_at_higher_precision_take_more_passes():
    def function(x, y):
        return jnp.matmul(x, y, precision="highest") + jnp.matmul(x, y, precision="default")

    found = cost_of(function, (8, 8), (8, 8))
    # The compiler may share the two products.
    assert (found.flops, found.passes) in ((2 * 2 * 8**3, 7 * 2 * 8**3), (2 * 8**3, 6 * 2 * 8**3))
    low = cost_of(lambda x, y: jnp.matmul(x, y, precision="default"), (8, 8), (8, 8))
    high = cost_of(lambda x, y: jnp.matmul(x, y, precision="highest"), (8, 8), (8, 8))
    assert low.passes == low.flops == high.flops
    assert high.passes == 6 * high.flops


def test_products_of_bfloat16_take_one_pass_at_any_precision():
    text = compiled(lambda x, y: jnp.matmul(x, y, precision="highest"), (8, 8), (8, 8)).as_text()
    assert "operand_precision={highest" in text
    found = costs(Program(text.replace("f32[", "bf16[")))
    assert found.passes == found.flops == 2 * 8**3


def test_elementwise_work_reads_and_writes_each_array_once():
    found = cost_of(lambda x, y: jnp.sin(x) * y + x, (100, 50), (100, 50))
    assert found.traffic == (3 * 100 * 50 * 4, 0)
    assert found.flops == 0


def test_slices_of_an_array_move_the_slices_only():
    """Ten rows are read, and ten written in place, of arrays of a thousand."""

    def function(x):
        def body(i, kept):
            return jax.lax.dynamic_update_slice(kept, jnp.sin(jax.lax.dynamic_slice(x, (i, 0), (1, 64))), (i, 0))

        return jax.lax.fori_loop(0, 10, body, jnp.zeros((1000, 64)))

    found = cost_of(function, (1000, 64))
    row, whole = 64 * 4, 1000 * 64 * 4
    # The zeros are written once, and perhaps copied once.
    assert whole + 2 * 10 * row <= found.traffic.memory <= 3 * whole + 4 * 10 * row


def test_what_stays_on_the_chip_is_kept_apart():
    found = costs(Program(TPU))
    # The copy reads y in memory, as much as it writes on the chip. The gather reads a shard and writes the whole, once.
    copied, shard, whole = 4 * 256 * 4, 8 * 128 * 2, 64 * 128 * 2
    assert found.traffic == (copied + shard + whole, copied)
    assert found.opaque == ()


def test_operands_of_fusions_are_read_through_other_shapes():
    """A TPU's products stand in fusions that give their operands another shape, which moves nothing."""
    text = """HloModule m

%flat (a: f32[4,64]) -> f32[256] {
  %a = f32[4,64]{1,0} parameter(0)
  ROOT %bitcast = f32[256]{0} bitcast(%a)
}

%square (b: f32[4,64]) -> f32[256] {
  %b = f32[4,64]{1,0} parameter(0)
  %flattened = f32[256]{0} fusion(%b), kind=kLoop, calls=%flat
  ROOT %multiply = f32[256]{0} multiply(%flattened, %flattened)
}

ENTRY %main (p: f32[4,64]) -> f32[256] {
  %p = f32[4,64]{1,0} parameter(0)
  ROOT %fusion = f32[256]{0} fusion(%p), kind=kLoop, calls=%square
}
"""
    assert costs(Program(text)).traffic.memory == 2 * 256 * 4


def test_kernels_that_hide_their_work_are_named():
    text = """HloModule m

ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %kernel = f32[8,8]{1,0} custom-call(%p), custom_call_target="tpu_custom_call"
}
"""
    found = costs(Program(text))
    assert found.opaque == ("tpu_custom_call",)
    assert found.traffic.memory == 2 * 8 * 8 * 4


def test_a_whole_network_counts_as_the_compiler_counts_it():
    """Two layers, forward and backward, without loops: products alone, and all bytes within a fifth."""

    def loss(params, x):
        for kernel in params:
            x = jax.nn.relu(x @ kernel)
        return jnp.sum(x**2)

    kernels = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 2
    program = compile_optimized(jax.jit(jax.grad(loss)).lower(kernels, jax.ShapeDtypeStruct((32, 64), jnp.float32)))
    found, counted = costs(Program(program.as_text())), program.cost_analysis()
    # Forward, and for each layer the gradients of its kernel and, but for the first, of its input.
    assert found.flops == 5 * 2 * 32 * 64 * 64
    assert found.flops <= counted["flops"] <= 1.1 * found.flops
    np.testing.assert_allclose(found.traffic.memory, counted["bytes accessed"], rtol=0.2)
