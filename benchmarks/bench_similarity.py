"""Time and memory of the similarity over a gallery: `python -m benchmarks.bench_similarity --out benchmarks/results`.

Writes bench_similarity.json: 1,000 texts against 1,000 videos at full width (512 features; 32 words and 12 frames at
the first level, merged at the others), for HBI and HBI V2, each in its own process and compared with its bound. The
bound is the time of the matrix products of tokens at the rate of one large product and, for V2, of the ReLUs of gates
and token weights at the rate of a loop that does nothing else. At a smaller size, V2 is compared with the dense
formula, which holds every reconstructed token of every pair in memory. The interaction is not computed: the programs
get no parameters of the prediction header. `--quick` uses 256 x 256. Takes two minutes.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from hbi_jax.models.config import CLIPConfig, HBIConfig
from hbi_jax.models.hbi import HBI
from hbi_jax.models.reconstruction import SideMLPs, reconstruct, reconstructed_wti, reconstruction_side, video_query
from hbi_jax.models.similarity import wti
from hbi_jax.models.token_mlp import MLP
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.gallery import Gallery
from hbi_jax.tasks.retrieval.evaluator import RetrievalEvaluator
from hbi_jax.types import Encoded, WeightedTokens

WIDTH, HIDDEN = 512, 128
# Names of the levels, and their numbers of words and frames.
NAMES = ("entity", "action", "event")
COUNTS = ((32, 12), (16, 6), (4, 2))
LEVELS = {"entity level": (1.0, 0.0, 0.0), "three levels": (1.0, 1.0, 1.0)}
METHODS = {"HBI": False, "HBI V2": True}
TEXT_BLOCK, VIDEO_BLOCK = 128, 32
DENSE = 96  # texts and videos in the comparison with the dense formula


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    parser.add_argument("--quick", action="store_true", help="a smaller gallery")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # method, levels and size
    options = parser.parse_args()
    if options.one:
        method, levels, size = options.one
        print(json.dumps(score(METHODS[method], LEVELS[levels], int(size))))
        return
    size, results = 256 if options.quick else 1000, {}
    for method in METHODS:
        for levels in LEVELS:
            command = [sys.executable, "-m", "benchmarks.bench_similarity", "--one", method, levels, str(size)]
            results[f"{method}, {levels}"] = json.loads(subprocess.check_output(command, text=True))
            print(method, levels, results[f"{method}, {levels}"])
    shapes = {"texts": size, "videos": size, "features": WIDTH, "hidden": HIDDEN, "words and frames": COUNTS}
    shapes |= {"texts a block": TEXT_BLOCK, "videos a block": VIDEO_BLOCK}
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"shapes": shapes, "gallery": results, "dense": against_dense()}
    print(harness.write(options.out, "bench_similarity", found))


def make_gallery(size: int) -> Gallery:
    """Returns a gallery of random encodings with `size` texts and videos; half to all of their tokens are real."""
    rng = np.random.default_rng(0)

    def side(which: int) -> Encoded:
        levels = OrderedDict()
        for name, counts in zip(NAMES, COUNTS, strict=True):
            count = counts[which]
            mask = np.arange(count) < rng.integers(-(-count // 2), count + 1, (size, 1))
            features, logits = rng.normal(size=(size, count, WIDTH)), rng.normal(size=(size, count))
            levels[name] = WeightedTokens(features.astype(np.float32), mask, logits.astype(np.float32))
        return Encoded(levels, 0.05 * rng.normal(size=(size, WIDTH)).astype(np.float32))

    rows = np.arange(size, dtype=np.int32)
    return Gallery(side(0), side(1), rows, rows, None)


def make_params(hbi: HBI) -> dict:
    """Returns the parameters that the similarity uses, without those of the towers and the prediction header."""
    gallery = make_gallery(2)
    rates = dict.fromkeys(NAMES, 1.0)
    return hbi.init(jax.random.key(0), gallery.text, gallery.video, rates, method="gallery_similarity")


def score(reconstruction: bool, rates: tuple[float, ...], size: int, calls: int = 3) -> dict:
    """Times the scoring of a whole gallery, and measures its bound and the peak memory of this process."""
    hbi = HBI(HBIConfig(CLIPConfig(), weight_features=HIDDEN, reconstruction=reconstruction))
    evaluator = RetrievalEvaluator(
        hbi,
        make_mesh(),
        batch_size=TEXT_BLOCK,
        video_block=VIDEO_BLOCK,
        level_rates=dict(zip(NAMES, rates, strict=True)),
    )
    params, gallery = make_params(hbi), make_gallery(size)
    seconds = []
    for _ in range(1 + calls):
        start = time.perf_counter()
        evaluator.similarity(params, gallery)
        seconds.append(time.perf_counter() - start)
    compiled, *seconds = seconds
    peak = harness.peak_bytes()  # before anything else is measured
    bounds = {"matrix products": product_seconds(rates, size)}
    if reconstruction:
        bounds["ReLUs"] = relu_seconds(rates, size)
    median, bound = statistics.median(seconds), sum(bounds.values())
    return {
        "first_call_s": round(compiled, 3),
        "median_s": round(median, 3),
        "smallest_s": round(min(seconds), 3),
        "largest_s": round(max(seconds), 3),
        "bound_s": {name: round(value, 3) for name, value in bounds.items()},
        "times_bound": round(median / bound, 2),
        "peak_bytes": peak,
    }


def product_seconds(rates: tuple[float, ...], size: int) -> float:
    """Returns the time of the products of all text tokens with all video tokens, at the rate of one large product."""
    rows, columns = TEXT_BLOCK * COUNTS[0][0], 8 * VIDEO_BLOCK * COUNTS[0][1]
    ones = jnp.ones((rows, WIDTH)), jnp.ones((WIDTH, columns))
    # Only the maximum is returned, so that writing the product to memory is not part of the time.
    timing = harness.time_jitted(lambda x, y: jnp.max(x @ y), *ones, calls=10)
    cells = sum(words * frames for (words, frames), rate in zip(COUNTS, rates, strict=True) if rate)
    return timing.median_ms / 1e3 * size**2 * cells / (rows * columns)


def relu_seconds(rates: tuple[float, ...], size: int) -> float:
    """Returns the time of the ReLUs of two MLPs per token, at the rate of summing those of one block."""
    words = COUNTS[0][0]
    hidden, mean = jnp.ones((HIDDEN, 1, TEXT_BLOCK, words)), jnp.ones((HIDDEN, VIDEO_BLOCK, TEXT_BLOCK, 1))

    def add(total, feature):
        return total + feature[2] * jax.nn.relu(feature[0] - feature[1]), None

    def add_up(hidden, mean):
        start = jnp.zeros((VIDEO_BLOCK, TEXT_BLOCK, words))
        return jax.lax.scan(add, start, (hidden, mean, jnp.ones(HIDDEN)))[0]

    timing = harness.time_jitted(add_up, hidden, mean, calls=10)
    tokens = sum(sum(counts) for counts, rate in zip(COUNTS, rates, strict=True) if rate)
    return timing.median_ms / 1e3 * 2 * size**2 * tokens / (VIDEO_BLOCK * TEXT_BLOCK * words)


def against_dense() -> dict:
    """Compares V2's entity level from inner products with the dense formula, which holds every reconstructed token."""
    hbi, gallery = HBI(HBIConfig(CLIPConfig(), weight_features=HIDDEN, reconstruction=True)), make_gallery(DENSE)
    params = make_params(hbi)["params"]

    def mlp(name: str) -> MLP:
        layers = params[f"{name}_entity"]
        return MLP(*(layers[layer][leaf] for layer in ("hidden", "logit") for leaf in ("kernel", "bias")))

    text_mlps, video_mlps = (SideMLPs(mlp(f"{side}_gate"), mlp(f"{side}_weight")) for side in ("text", "video"))
    text, video = (jax.tree.map(jnp.asarray, side.levels["entity"]) for side in (gallery.text, gallery.video))
    sentence = jnp.asarray(gallery.text.pooled)

    def blocks(text, video, sentence):
        sides = reconstruction_side(text, text_mlps, sentence), reconstruction_side(video, video_mlps)
        return reconstructed_wti(*sides, text_mlps, video_mlps, VIDEO_BLOCK)

    def dense(text, video, sentence):
        def pair(words, frames, sentence):
            words, frames, sentence = jax.tree.map(lambda x: x[None], (words, frames, sentence))
            new_words = reconstruct(words, video_query(frames), text_mlps).tokens
            new_frames = reconstruct(frames, sentence, video_mlps).tokens
            return wti(new_words, new_frames, 1)[0, 0]

        return jax.vmap(jax.vmap(pair, (None, 0, None)), (0, None, 0))(text, video, sentence)

    timings = {
        "inner products": harness.time_jitted(blocks, text, video, sentence, calls=5),
        "dense": harness.time_jitted(dense, text, video, sentence, calls=5),
    }
    error = jnp.max(jnp.abs(jax.jit(blocks)(text, video, sentence) - jax.jit(dense)(text, video, sentence)))
    return {
        "texts and videos": DENSE,
        **{name: timing._asdict() for name, timing in timings.items()},
        "memory, dense / inner products": round(timings["dense"].temp_bytes / timings["inner products"].temp_bytes, 1),
        "largest difference": float(error),
    }


if __name__ == "__main__":
    main()
