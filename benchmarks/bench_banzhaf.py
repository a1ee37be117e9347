"""Time, memory and error of the exact interaction: `python -m benchmarks.bench_banzhaf --out benchmarks/results`.

Writes bench_banzhaf.json: the batch of a training step, compared with the forward pass of the estimator network on the
same batch; the cost by number of tokens; the largest errors against enumeration in games of at most 14 players; the
error of sampling by its time. Takes about a minute. `--quick` makes a tenth of the calls; `--large-batch 4096` also
times that many pairs, for GPUs. Needs only the packages of the library's core.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from hbi_jax import banzhaf
from hbi_jax.banzhaf.estimator import InteractionNet

BATCH = (128, 24, 12)
TOKENS = (8, 16, 32, 64, 128, 256)
SPREADS = (0, 5, 15, 25, 35, 50, 80)
KINDS = ("random", "tied", "negative", "identical", "one-hot", "large")
SMALL_GAMES = ((7, 7), (12, 2), (4, 6))
SAMPLES = (16, 64, 256, 1024, 4096)


def inputs(*shape: int, kind: str = "random", spread: float = 8.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Returns random similarities of a kind, and logits that span a range of `spread`."""
    rng = np.random.default_rng(seed)
    *batch, words, frames = shape
    similarity = rng.uniform(-1, 1, shape)
    if kind == "tied":
        similarity = np.round(2 * similarity) / 2
    elif kind == "negative":
        similarity = -np.abs(similarity)
    elif kind == "identical":
        similarity = np.full(shape, 0.3)
    elif kind == "one-hot":
        similarity = (np.arange(words * frames) == words * frames // 2).reshape(words, frames) * np.ones(shape)
    elif kind == "large":
        similarity = 1e3 * similarity
    logits = [
        spread * rng.permuted(np.broadcast_to(np.linspace(0, 1, n), (*batch, n)), axis=-1) for n in (words, frames)
    ]
    return similarity, *logits


def on_device(arrays, dtype=jnp.float32) -> list[jax.Array]:
    """Returns the arrays on the device in one dtype."""
    return [jnp.asarray(x, dtype) for x in arrays]


def squared_sum(*arrays: jax.Array) -> jax.Array:
    """Returns a scalar function of the interaction, for gradients."""
    return jnp.sum(banzhaf.interaction(*arrays) ** 2)


@functools.partial(jax.jit, static_argnames="index")
def solved(*arrays: jax.Array, index: str) -> tuple[jax.Array, ...]:
    """Returns the interaction, the values of words and the values of frames, in closed form."""
    return banzhaf.interaction(*arrays, index=index), *banzhaf.value(*arrays, index=index)


@functools.partial(jax.jit, static_argnames="index")
def enumerated(*arrays: jax.Array, index: str) -> tuple[jax.Array, ...]:
    """Returns the same as `solved`, by enumeration."""
    payoff, shape = functools.partial(banzhaf.coalition_value, *arrays), arrays[0].shape
    interactions = banzhaf.enumerate_interactions(payoff, *shape, index=index)
    return interactions, *banzhaf.enumerate_values(payoff, *shape, index=index)


def sampled(num_samples: int, *arrays: jax.Array) -> banzhaf.Estimate:
    """Estimates the interactions of a batch by sampling, with one key for all games."""

    def of_one_pair(*game: jax.Array) -> banzhaf.Estimate:
        payoff = functools.partial(banzhaf.coalition_value, *game)
        chunk_size = min(num_samples, 64)  # coalitions per game; all games run at once
        return banzhaf.sample(payoff, *game[0].shape, jax.random.key(0), num_samples, chunk_size=chunk_size)

    return jax.vmap(of_one_pair)(*arrays)


def largest_errors(index: str, kind: str, spread: float) -> dict:
    """Returns the largest errors against float64 enumeration in small games, relative to the largest similarity."""
    row = {"index": index, "kind": kind, "logit_spread": spread}
    for dtype in (np.float32, np.float64):
        errors = []
        for seed, shape in enumerate(SMALL_GAMES):
            arrays = [x.astype(dtype) for x in inputs(*shape, kind=kind, spread=spread, seed=seed)]
            with jax.enable_x64(True):
                want = jax.device_get(enumerated(*on_device(arrays, jnp.float64), index=index))
            with jax.enable_x64(dtype == np.float64):
                got = jax.device_get(solved(*on_device(arrays, dtype), index=index))
            unit = max(1.0, float(np.abs(arrays[0]).max()))
            errors.append([np.abs(x - y).max() / unit for x, y in zip(got, want, strict=True)])
        pair, *values = np.max(errors, axis=0)
        row |= {np.dtype(dtype).name: float(pair), f"value_{np.dtype(dtype).name}": float(max(values))}
    return row


def cost(*shape: int, function=banzhaf.interaction, calls: int = 50) -> dict:
    """Returns the shape, the timing, and the memory in bytes per pair and (words + frames)^2."""
    timing = harness.time_jitted(function, *on_device(inputs(*shape)), calls=calls)._asdict()
    pairs, words, frames = shape
    return {
        "shape": shape,
        **timing,
        "bytes_per_pair_and_squared_tokens": round(timing["temp_bytes"] / pairs / (words + frames) ** 2, 1),
    }


def beside_the_estimator(pairs: int, calls: int) -> dict:
    """Times the exact interaction and the estimator's forward pass on the same batch."""
    shape = (pairs, *BATCH[1:])
    net = InteractionNet("cnn_sa")
    params = net.init(jax.random.key(0), jnp.zeros((1, *BATCH[1:])))
    exact = cost(*shape, calls=calls)
    estimator = cost(*shape, function=lambda similarity, *_: net.apply(params, similarity), calls=max(5, calls // 10))
    return {
        "batch": exact,
        "estimator": estimator,
        "exact_over_estimator": round(exact["median_ms"] / estimator["median_ms"], 4),
    }


def sampling(exact_ms: float, calls: int) -> dict:
    """Measures the errors (against float64) and times of sampling and of the exact interaction on one batch."""
    arrays = on_device(inputs(*BATCH))
    with jax.enable_x64(True):
        want = np.asarray(banzhaf.interaction(*on_device(arrays, jnp.float64)))
    error = lambda got: float(np.sqrt(np.mean((np.asarray(got, np.float64) - want) ** 2)))  # noqa: E731
    exact_error = error(banzhaf.interaction(*arrays))
    rows = []
    for num_samples in SAMPLES:
        function = functools.partial(sampled, num_samples)
        estimate = jax.jit(function)(*arrays)
        rows.append(
            {
                "num_samples": num_samples,
                "median_ms": harness.time_jitted(function, *arrays, calls=calls).median_ms,
                "rms_error": error(estimate.interaction),
                "rms_standard_error": float(jnp.sqrt(jnp.mean(estimate.standard_error**2))),
            }
        )
    # The fewest samples that take at least as long as the exact interaction, or else the most samples.
    equal = next((row for row in rows if row["median_ms"] >= exact_ms), rows[-1])
    return {
        "shape": BATCH,
        "exact_rms_error": exact_error,
        "rms_interaction": float(np.sqrt(np.mean(want**2))),
        "samples": rows,
        "at_equal_time": {
            "num_samples": equal["num_samples"],
            "error_over_exact_error": round(equal["rms_error"] / exact_error),
        },
    }


def parse_arguments() -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--large-batch", type=int, default=0, metavar="PAIRS", help="also time this many pairs")
    return parser.parse_args()


def main() -> None:
    """Measures and writes the JSON."""
    flags = parse_arguments()
    flags.out.mkdir(parents=True, exist_ok=True)
    calls = lambda usual: max(5, usual // 10) if flags.quick else usual  # noqa: E731
    results = beside_the_estimator(BATCH[0], calls(300))
    results |= {
        "batch_with_gradient": cost(*BATCH, function=jax.value_and_grad(squared_sum, (0, 1, 2)), calls=calls(100)),
        "batch_values": cost(*BATCH, function=banzhaf.value, calls=calls(100)),
        "batch_shapley": cost(
            *BATCH, function=functools.partial(banzhaf.interaction, index="shapley"), calls=calls(50)
        ),
        "tokens": [cost(8, n, n, calls=calls(50)) for n in TOKENS],
        "sampling": sampling(results["batch"]["median_ms"], calls(50)),
        "error_against_enumeration": [
            largest_errors(index, "random", spread) for index in ("banzhaf", "shapley") for spread in SPREADS
        ],
        "error_by_kind": [largest_errors(index, kind, spread=25) for index in ("banzhaf", "shapley") for kind in KINDS],
    }
    if flags.large_batch:
        results["large_batch"] = beside_the_estimator(flags.large_batch, calls(100))
    path = harness.write(flags.out, "bench_banzhaf", results)
    worst = max(row["float32"] for row in results["error_against_enumeration"] if row["logit_spread"] <= 25)
    batch, equal = results["batch"], results["sampling"]["at_equal_time"]
    print(
        f"{BATCH[0]} pairs of {BATCH[1]} x {BATCH[2]}: {batch['median_ms']:.2f} ms, "
        f"{results['exact_over_estimator']:.3f} of the estimator's forward pass; "
        f"float32 error up to e^25: {worst:.1e}; "
        f"sampling errs {equal['error_over_exact_error']} times as much in equal time; {path}"
    )


if __name__ == "__main__":
    main()
