"""Time and error of the exact interaction: `python -m benchmarks.bench_banzhaf --out benchmarks/results`.

Writes bench_banzhaf.json: the batch of a training step with and without gradient, the cost against the number
of tokens, the Shapley index, and the largest error against enumeration over games of at most 14 players.
About a minute.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from hbi_jax import banzhaf

SPREADS = (0, 5, 15, 25, 35, 50, 80)
SMALL_GAMES = ((7, 7), (12, 2), (4, 6))


def inputs(*shape: int, spread: float = 8.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random similarities, and logits over a range of `spread`."""
    rng = np.random.default_rng(seed)
    *batch, words, frames = shape
    similarity = rng.uniform(-1, 1, shape)
    logits = [
        spread * rng.permuted(np.broadcast_to(np.linspace(0, 1, n), (*batch, n)), axis=-1) for n in (words, frames)
    ]
    return similarity, *logits


def on_device(arrays, dtype=jnp.float32) -> list[jax.Array]:
    """The arrays in one dtype."""
    return [jnp.asarray(x, dtype) for x in arrays]


def squared_sum(*arrays: jax.Array) -> jax.Array:
    """A scalar of the interaction, to take gradients of."""
    return jnp.sum(banzhaf.interaction(*arrays) ** 2)


@functools.partial(jax.jit, static_argnames="index")
def enumerated(*arrays: jax.Array, index: str) -> jax.Array:
    """The oracle on the similarity game."""
    payoff = functools.partial(banzhaf.coalition_value, *arrays)
    return banzhaf.enumerate(payoff, *arrays[0].shape, index=index)


def largest_error(spread: float, index: str, dtype) -> float:
    """Largest difference from float64 enumeration over small games of one range of logits."""
    errors = []
    for seed, shape in enumerate(SMALL_GAMES):
        arrays = [x.astype(dtype) for x in inputs(*shape, spread=spread, seed=seed)]
        with jax.enable_x64(True):
            want = np.asarray(enumerated(*on_device(arrays, jnp.float64), index=index))
        with jax.enable_x64(dtype == np.float64):
            got = np.asarray(banzhaf.interaction(*on_device(arrays, dtype), index=index))
        errors.append(np.abs(got - want).max())
    return float(max(errors))


def cost(*shape: int, function=banzhaf.interaction, calls: int = 50) -> dict:
    """Shape and timing of one function."""
    return {
        "shape": shape,
        **harness.time_jitted(function, *on_device(inputs(*shape)), calls=calls)._asdict(),
    }


def main() -> None:
    """Runs everything and writes the JSON."""
    out = harness.parse_arguments("Time and error of the exact interaction.")
    results = {
        "batch": cost(128, 24, 12, calls=300),
        "batch_with_gradient": cost(128, 24, 12, function=jax.value_and_grad(squared_sum, (0, 1, 2)), calls=100),
        "batch_shapley": cost(128, 24, 12, function=functools.partial(banzhaf.interaction, index="shapley")),
        "tokens": [cost(8, n, n) for n in (8, 16, 32, 64, 128, 256)],
        "error_against_enumeration": [
            {
                "index": index,
                "logit_spread": spread,
                "float32": largest_error(spread, index, np.float32),
                "float64": largest_error(spread, index, np.float64),
            }
            for index in ("banzhaf", "shapley")
            for spread in SPREADS
        ],
    }
    path = harness.write(out, "bench_banzhaf", results)
    batch = results["batch"]
    worst = max(row["float32"] for row in results["error_against_enumeration"] if row["logit_spread"] <= 25)
    print(f"128 pairs of 24 x 12: {batch['median_ms']:.2f} ms; float32 error up to e^25: {worst:.1e}; {path}")


if __name__ == "__main__":
    main()
