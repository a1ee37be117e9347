"""The suite checks the types and shapes of every call, also where it checks quickly (tests/typechecks.py)."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from hbi_jax import fields
from hbi_jax.models.similarity import normalize, token_weights


@pytest.mark.parametrize(
    "call",
    [
        lambda: fields.require("yes", "name", 1, "2", "change it"),
        lambda: normalize(3),
        lambda: normalize(jnp.ones(3, int)),
        lambda: token_weights(jnp.ones((2, 3)), jnp.ones((2, 4), bool)),
    ],
    ids=["without shapes", "no array", "kind of numbers", "sizes that differ"],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(TypeCheckError):
        call()
