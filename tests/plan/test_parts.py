"""Costs by part of a model, from what the compiler notes beside each instruction."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from hbi_jax.plan.costs import costs
from hbi_jax.plan.hlo import Program
from hbi_jax.plan.parts import REST, part_name, parts
from tests.optimized import compile_optimized

ROWS, WIDTH = 32, 64


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(WIDTH, use_bias=False, name="proj")(x))


class Model(nn.Module):
    def setup(self):
        self.tower, self.head = Inner(), nn.Dense(WIDTH, use_bias=False)

    def __call__(self, x):
        return self.head(self.tower(x))


@pytest.fixture(scope="module")
def program():
    """A step of gradient descent."""
    model, x = Model(), jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)

    def step(params, x):
        gradients = jax.grad(lambda params: jnp.sum(model.apply(params, x) ** 2))(params)
        return jax.tree.map(lambda param, gradient: param - 0.1 * gradient, params, gradients)

    params = jax.eval_shape(model.init, jax.random.key(0), x)
    return Program(compile_optimized(jax.jit(step).lower(params, x)).as_text())


def test_products_belong_to_their_modules(program):
    product = 2 * ROWS * WIDTH * WIDTH
    found = {part.name: part.flops for part in parts(program) if part.flops}
    # The gradient of the tower's input is not needed.
    assert found == {
        "forward tower/proj": product,
        "backward tower/proj": product,
        "forward head": product,
        "backward head": 2 * product,
    }


def test_parts_add_up(program):
    found, whole = parts(program), costs(program)
    assert sum(part.flops for part in found) == whole.flops
    assert sum(part.hbm_bytes for part in found) == whole.traffic.memory
    assert [part.hbm_bytes for part in found] == sorted((part.hbm_bytes for part in found), reverse=True)


def test_names_are_as_long_as_asked(program):
    names = {part.name for part in parts(program, depth=1)}
    assert {"forward tower", "backward tower", "forward head"} <= names
    assert not any("/" in name for name in names)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("jit(train_step)/jvp(HBI)/HBI.encode_video/HBI.frame_features/vision_tower/ln_pre/add", "vision_tower/ln_pre"),
        ("jit(train_step)/transpose(jvp(HBI))/HBI.encode_text/text_tower/while/body/mul", "text_tower"),
        ("jit(train_step)/jvp(HBI)/HBI.align/HBI._similarities/shard_map/atd,vd->atv/dot_general", "similarities"),
        ("jit(train_step)/jvp(jit(log_softmax))/sub", "loss"),
        ("jit(train_step)/add", REST),
        ("mul", REST),
        ("jit(encode_video)/HBI.encode_video/frame_transformer/add", "frame_transformer"),
    ],
)
def test_names_of_parts(operation, name):
    direction = "backward " if "transpose" in operation else "forward " if "jvp" in operation else ""
    assert part_name(operation, 2) == direction + name
