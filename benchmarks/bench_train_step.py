"""One training step at full size: ViT-B/32, random weights, 8 pairs of 12 frames and 24 words, all three levels.

    python -m benchmarks.bench_train_step --out benchmarks/results

Claims: on two CPU cores, in float32, a step takes at most 12 s and 6 GB. The parts are compiled and timed one by
one, forward and backward; `rest` is the time of the whole step beyond them. The step is also compared with the time
that the vision tower's matrix products would take at the rate of one large matrix product.

Steps of HBI V1 and of HCMI, with and without label denoising, follow. Denoising encodes a second view of every video,
without a backward pass. Claim: without it, a step of HCMI takes at most 1.1 times as long as one of V1.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.harness import parse_arguments, peak_bytes, time_jitted, write
from configs.hcmi_msrvtt import get_config as get_hcmi
from configs.msrvtt import get_config
from hbi_jax import banzhaf
from hbi_jax.config import Config, parse
from hbi_jax.models.clip import TextTower, VisionTower
from hbi_jax.models.hbi import HBI
from hbi_jax.models.methods import make_model
from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.tasks.task import abstract_batch, init_model
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.state import init_state, state_shardings
from hbi_jax.train.step import compile_step, make_train_step
from hbi_jax.train.teacher import exact_teacher
from hbi_jax.types import Batch

PAIRS, WORDS, FRAMES = 8, 24, 12
CALLS = 5


def configuration() -> Config:
    """Returns a configuration of HBI V2 with the sizes of the claim."""
    config = get_config()
    config.model.levels = (("entity", 0, 0), ("action", 6, 3), ("event", 3, 2))
    return _sized(config)


def hcmi_configuration(denoising: bool) -> Config:
    """Returns a configuration of HCMI with the same sizes."""
    config = get_hcmi()
    config.model.levels = (("frame", 0, 0), ("clip", 6, 3), ("video", 1, 1))
    config.loss.denoising, config.data.num_views = denoising, 1 + denoising
    return _sized(config)


def _sized(config: ConfigDict) -> Config:
    config.data.num_words, config.data.num_frames = WORDS, FRAMES
    config.train.batch_size = PAIRS
    # The claim on memory needs 4 portions; a step with 1 is faster but needs more memory.
    config.model.frame_portions = 4
    return parse(config)


def random_batch(config) -> Batch:
    """Returns a batch of noise with texts of 12 to 24 tokens."""
    rng = np.random.default_rng(0)
    shapes = abstract_batch(config)
    lengths = rng.integers(WORDS // 2, WORDS + 1, PAIRS)
    mask = np.ones((PAIRS, FRAMES), bool)
    first, *second = (rng.integers(0, 256, shapes.frames.shape).astype(np.uint8) for _ in range(config.data.num_views))
    return Batch(
        token_ids=rng.integers(1, 49407, shapes.token_ids.shape).astype(np.int32),
        text_mask=np.arange(WORDS)[None] < lengths[:, None],
        frames=first,
        frame_mask=mask,
        video_index=np.arange(PAIRS, dtype=np.int32),
        record_index=np.arange(PAIRS, dtype=np.int32),
        example_mask=np.ones(PAIRS, bool),
        second_frames=second[0] if second else None,
        second_mask=mask if second else None,
    )


def product_rate(size: int = 3072) -> float:
    """Measures the GFLOP/s of one large float32 matrix product."""
    x = jnp.ones((size, size))
    return 2 * size**3 / (time_jitted(jnp.matmul, x, x, calls=10).median_ms * 1e6)


def step_timing(config, batch: Batch) -> dict:
    """Times whole steps with a donated state, and measures the peak memory of the process so far."""
    model, mesh = make_model(config.model), make_mesh()
    init_params = functools.partial(init_model, model, config)
    tx = make_optimizer(config.optimizer, jax.eval_shape(init_params), 1000)
    state, batch = init_state(init_params, tx, mesh), put_batch(batch, mesh)
    teacher = exact_teacher(config.loss.interaction_scale)
    loss_fn = functools.partial(retrieval_loss, model, config.loss, teacher)
    begun = time.perf_counter()
    step = compile_step(make_train_step(loss_fn, tx, mesh, state_shardings(state)), state, batch)
    compile_s, seconds = time.perf_counter() - begun, []
    for call in range(1 + CALLS):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        if call:
            seconds.append(time.perf_counter() - begun)
    memory = step.memory_analysis()
    return {
        "compile_s": round(compile_s, 1),
        "median_s": round(float(np.median(seconds)), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
        "calls": CALLS,
        "peak_rss_gb": round(peak_bytes() / 1e9, 2),
        "compiled_temporaries_gb": round(memory.temp_size_in_bytes / 1e9, 2),
        "compiled_arguments_gb": round(memory.argument_size_in_bytes / 1e9, 2),
    }


def part_timings(config, batch: Batch) -> dict[str, float]:
    """Times each part alone; medians in seconds. The towers run forward and backward, for their parameters."""
    clip = config.model.clip
    images = jnp.asarray(batch.frames.reshape(-1, *batch.frames.shape[2:]))
    ids, mask = jnp.asarray(batch.token_ids), jnp.asarray(batch.text_mask)

    def seconds(function, *args) -> float:
        return time_jitted(function, *args, calls=CALLS, warmup=1).median_ms / 1e3

    def tower(module, *inputs) -> float:
        params = jax.jit(module.init)(jax.random.key(0), *inputs)

        def loss(params):
            return sum(
                jnp.sum(leaf**2) for leaf in jax.tree.leaves(module.apply(params, *inputs)) if leaf.dtype != bool
            )

        return seconds(jax.value_and_grad(loss), params)

    parts = {
        "vision_tower": tower(VisionTower(clip), images),
        "text_tower": tower(TextTower(clip), ids, mask),
    }
    key = jax.random.key(0)
    games = [(WORDS, FRAMES), *((level.words, level.frames) for level in config.model.levels[1:])]
    inputs = [
        (
            jax.random.uniform(key, (PAIRS, t, v)),
            jax.random.normal(key, (PAIRS, t)),
            jax.random.normal(key, (PAIRS, v)),
        )
        for t, v in games
    ]
    parts["exact_interaction"] = seconds(lambda games: [banzhaf.interaction(*game) for game in games], inputs)

    params = jax.jit(functools.partial(init_model, HBI(config.model), config))()
    tx = make_optimizer(config.optimizer, params, 1000)
    parts["optimizer"] = seconds(
        lambda grads, state, params: tx.update(grads, state, params), params, tx.init(params), params
    )
    return {name: round(value, 4) for name, value in parts.items()}


def product_flops(config) -> float:
    """Returns the floating-point operations of the vision tower's matrix products, forward and backward."""
    clip = config.model.clip
    tokens = (clip.image_size // clip.patch_size) ** 2 + 1
    width, images = clip.vision_width, PAIRS * FRAMES
    block = 12 * width**2 * tokens + 2 * tokens**2 * width
    patches = (tokens - 1) * 3 * clip.patch_size**2 * width
    return 3 * 2 * images * (clip.vision_layers * block + patches)


def main() -> None:
    """Measures and writes bench_train_step.json."""
    out = parse_arguments(__doc__)
    config = configuration()
    batch = random_batch(config)
    whole = step_timing(config, batch)
    parts = part_timings(config, batch)
    methods = {
        "HBI V1": config.replace(model__reconstruction=False),
        "HCMI": hcmi_configuration(denoising=True),
        "HCMI without denoising": hcmi_configuration(denoising=False),
    }
    seconds = {name: step_timing(own, random_batch(own))["median_s"] for name, own in methods.items()}
    rate, flops = product_rate(), product_flops(config)
    parts["rest"] = round(whole["median_s"] - sum(parts.values()), 4)
    results = {
        "shapes": {"pairs": PAIRS, "words": WORDS, "frames": FRAMES, "model": "ViT-B/32", "dtype": "float32"},
        "step": whole,
        "methods_s": seconds,
        "parts_s": parts,
        "share": {name: round(value / whole["median_s"], 3) for name, value in parts.items()},
        "vision_products_tflop": round(flops / 1e12, 2),
        "machine_gflops": round(rate, 1),
        "step_over_vision_products_at_machine_rate": round(whole["median_s"] / (flops / (rate * 1e9)), 2),
    }
    print(write(out, "bench_train_step", results).read_text())


if __name__ == "__main__":
    main()
