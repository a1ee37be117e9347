"""What compiled programs take: memory quadratic in the tokens, and nothing that grows with coalitions or samples."""

import functools

import jax
import jax.numpy as jnp
import pytest

from hbi_jax import banzhaf
from tests.optimized import compile_optimized

FLOAT_BYTES = 4


def temp_floats(function, *inputs) -> float:
    """Memory of a compiled function beside its inputs and outputs, in float32 numbers."""
    return compile_optimized(jax.jit(function).lower(*inputs)).memory_analysis().temp_size_in_bytes / FLOAT_BYTES


def everything(*inputs, **options):
    return banzhaf.interaction(*inputs, **options), banzhaf.value(*inputs, **options)


def gradients(*inputs):
    return jax.grad(lambda *x: jnp.sum(banzhaf.interaction(*x) ** 2), (0, 1, 2))(*inputs)


@pytest.mark.parametrize(
    ("function", "most"), [(everything, 20), (functools.partial(everything, index="shapley"), 32), (gradients, 64)]
)
@pytest.mark.parametrize("shape", [(128, 24, 12), (8, 64, 64), (8, 256, 256)])
def test_memory_is_a_few_numbers_for_each_pair_of_tokens(function, most, shape):
    pairs, words, frames = shape
    inputs = [jax.ShapeDtypeStruct(x, jnp.float32) for x in (shape, shape[:2], (pairs, frames))]
    assert temp_floats(function, *inputs) < most * pairs * (words + frames) ** 2


def test_memory_of_sampling_does_not_grow_with_samples():
    def sampled(num_samples, similarity, text, video):
        payoff = functools.partial(banzhaf.coalition_value, similarity, text, video)
        return banzhaf.sample(payoff, 24, 12, jax.random.key(0), num_samples)

    def gradient(num_samples, *inputs):
        def total(*inputs):
            estimate = sampled(num_samples, *inputs)
            return jnp.sum(estimate.interaction) + jnp.sum(estimate.standard_error)

        return jax.grad(total)(*inputs)

    inputs = [jax.ShapeDtypeStruct(x, jnp.float32) for x in ((24, 12), (24,), (12,))]
    few, many = (temp_floats(functools.partial(sampled, n), *inputs) for n in (512, 10**6))
    assert few == many < 4 * 256 * 24 * 12
    few, many = (temp_floats(functools.partial(gradient, n), *inputs) for n in (1024, 10**6))
    assert many < few + 2 * 10**6 / 256  # the numbers of the chunks
    assert few < 16 * 256 * 24 * 12
