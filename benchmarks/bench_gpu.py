"""The step and the interaction on one accelerator, in one command: `make bench-gpu`.

    python -m benchmarks.bench_gpu --out benchmarks/results --profile runs/profile

The step of `configs/msrvtt.py` in bfloat16 with 128 pairs of 12 frames and 32 words, without reconstruction (V1) and
with it (V2), each with the compiler's attention, with cuDNN's, and with layers in a loop: time, memory, the share of
the device's peak that the products reach (MFU), the time of the kernels alone, and whether three steps from one state
give the same state twice, bit by bit. And the exact interaction of 4,096 pairs of 32 words and 12 frames. Data and
weights are random. Two steps of each model are traced, for TensorBoard or Perfetto. Writes bench_gpu_CARD.json after
each model; `--methods` chooses some, and keeps what the file says of the others. `--quick` tries the script with a
small model on any device.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import time_jitted, write
from configs.msrvtt import get_config
from hbi_jax import banzhaf
from hbi_jax.config import Config, parse
from hbi_jax.models.config import HBIConfig
from hbi_jax.models.methods import make_model
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.tasks.task import abstract_batch, init_model
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.state import TrainState, abstract_state, init_state, state_shardings
from hbi_jax.train.step import make_train_step
from hbi_jax.train.teacher import exact_teacher
from hbi_jax.types import Batch

METHODS = {
    f"{version}{kind}": {"reconstruction": version == "V2"} | changes
    for kind, changes in {"": {}, "_cudnn": {"attention": "cudnn"}, "_loop": {"scan_layers": "on"}}.items()
    for version in ("V1", "V2")
}
PAIRS, GAMES, CALLS, TRACED = 128, 4096, 20, 2
# Dense bfloat16 operations a second, of the makers' data sheets; the first name that the card's holds.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def configuration(method: dict, quick: bool) -> Config:
    """Returns the published configuration in bfloat16 with one batch on one device."""
    config = get_config()
    config.model.dtype = "bfloat16"
    config.model.update(method)
    config.train.batch_size, config.mesh.data = PAIRS, 1
    if quick:
        config.train.batch_size, config.model.clip.image_size = 4, 64
        config.model.clip.vision_layers = config.model.clip.text_layers = 2
        config.model.frame_layers = 2
    return parse(config)


def random_batch(config: Config) -> Batch:
    """Returns a batch of noise; every word and frame is real."""
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == bool:
            return np.ones(leaf.shape, bool)
        return rng.integers(1, 255, leaf.shape).astype(leaf.dtype)

    rows = np.arange(config.train.batch_size, dtype=np.int32)
    return jax.tree.map(fill, abstract_batch(config))._replace(video_index=rows, record_index=rows)


@functools.cache
def product_flops(reconstruction: bool, quick: bool) -> float:
    """Returns the operations of one step as written, with each layer counted and nothing recomputed."""
    config = configuration({"reconstruction": reconstruction}, quick)
    plain = dataclasses.replace(config.model, scan_layers="off", remat="none", attention="xla", frame_portions=1)
    # The GPU's backend does not count; lowering is all that happens on the CPU.
    step, state, batch, _ = _program(config, plain, jax.devices("cpu")[0])
    return step.lower(state, batch).cost_analysis()["flops"]


def _program(
    config: Config, model_config: HBIConfig, device: jax.Device
) -> tuple[jax.stages.Wrapped, TrainState, Batch, Callable[[], TrainState]]:
    """Returns the step on a device, shapes of its state and batch, and a function that makes the first state."""
    model, mesh = make_model(model_config), make_mesh(1, 1, [device])
    init_params = functools.partial(init_model, model, config)
    tx = make_optimizer(config.optimizer, jax.eval_shape(init_params), 1000)
    state = abstract_state(init_params, tx, mesh)
    loss = functools.partial(retrieval_loss, model, config.loss, exact_teacher(config.loss.interaction_scale))
    step = make_train_step(loss, tx, mesh, state_shardings(state))
    return step, state, abstract_batch(config), functools.partial(init_state, init_params, tx, mesh)


def kernels_ms(profile: pathlib.Path) -> float | None:
    """Returns the time that the kernels of a traced step took, without the gaps between them; None without a GPU."""
    trace = max(profile.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = [plane for plane in jax.profiler.ProfileData.from_file(str(trace)).planes if "GPU" in plane.name]
    spent = sum(event.duration_ns for plane in planes for line in plane.lines for event in line.events)
    return round(spent / 1e6 / TRACED, 2) if planes else None


def measure_step(method: dict, quick: bool, profile: pathlib.Path, is_first: bool) -> dict:
    """Compiles and times whole steps, one after the other, with a donated state.

    The peak of the memory is that of the process, so it is only told of the first step.
    """
    config, calls, device = configuration(method, quick), 3 if quick else CALLS, jax.devices()[0]
    step, *abstract, first_state = _program(config, config.model, device)
    begun = time.perf_counter()
    lowered = step.lower(*abstract)
    lower_s, begun = time.perf_counter() - begun, time.perf_counter()
    compiled = lowered.compile()
    compile_s, seconds, ends = time.perf_counter() - begun, [], []
    batch = jax.device_put(random_batch(config), device)
    start = jax.device_get(first_state())
    for _ in range(2):
        state = jax.device_put(start, device)
        for _ in range(3):
            state, _ = compiled(state, batch)
        ends.append(jax.device_get(state))
    for call in range(3 + calls):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch))
        if call >= 3:
            seconds.append(time.perf_counter() - begun)
    with jax.profiler.trace(str(profile)):
        for _ in range(TRACED):
            state, _ = jax.block_until_ready(compiled(state, batch))
    memory, rows = compiled.memory_analysis(), config.train.batch_size
    flops, median = product_flops(config.model.reconstruction, quick), float(np.median(seconds))
    peak = next((value for name, value in PEAKS.items() if name in device.device_kind), None)
    peak_bytes = (device.memory_stats() or {}).get("peak_bytes_in_use", 0) if is_first else 0
    return {
        "lower_s": round(lower_s, 1),
        "compile_s": round(compile_s, 1),
        "median_ms": round(1e3 * median, 2),
        "p10_ms": round(1e3 * float(np.percentile(seconds, 10)), 2),
        "p90_ms": round(1e3 * float(np.percentile(seconds, 90)), 2),
        "calls": calls,
        "kernels_ms": kernels_ms(profile),
        "pairs_per_second": round(rows / median, 1),
        "repeats_bitwise": jax.tree.all(jax.tree.map(np.array_equal, *ends)),
        "tflop": round(flops / 1e12, 3),
        "mfu": None if peak is None else round(flops / median / peak, 3),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "peak_gib": round(peak_bytes / 2**30, 2) or None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def main() -> None:
    """Measures and writes bench_gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    parser.add_argument(
        "--profile", type=pathlib.Path, default=pathlib.Path("runs/profile"), help="folder of the traces"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="the steps to measure")
    parser.add_argument("--quick", action="store_true", help="a small model, to try the script")
    options = parser.parse_args()
    if jax.default_backend() == "cpu" and not options.quick:
        parser.error("JAX sees no accelerator; install jax[cuda13] or jax[cuda12], or try the script with --quick")
    calls, games = (3, 64) if options.quick else (CALLS, GAMES)
    rng = np.random.default_rng(0)
    words, frames = 32, 12
    shapes = (games, words, frames), (games, words), (games, frames)
    game = [jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for shape in shapes]
    card = re.sub(r"\W+", "_", jax.devices()[0].device_kind).strip("_").lower()
    # A try of the script replaces no measurement.
    name_of_file = f"quick_gpu_{card}" if options.quick else f"bench_gpu_{card}"
    known = options.out / f"{name_of_file}.json"
    old = json.loads(known.read_text()) if known.exists() and not options.quick else {}
    kept = {name: row for name, row in old.get("step", {}).items() if name not in options.methods}
    found = {
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "shapes": {"pairs": configuration({}, options.quick).train.batch_size, "games": [games, words, frames]},
        "interaction": time_jitted(banzhaf.interaction, *game, calls=calls)._asdict(),
        # Under which flags and conditions the kept steps were measured.
        **({"conditions": old["conditions"]} if kept and "conditions" in old else {}),
        "step": {name: {"xla_flags": old["xla_flags"], **row} for name, row in kept.items()},
    }
    print("interaction", found["interaction"], flush=True)
    for number, name in enumerate(options.methods):
        try:
            found["step"][name] = measure_step(METHODS[name], options.quick, options.profile / name, not number)
        except Exception as error:
            # A card may lack memory or a kernel for one of them; the others are still measured.
            found["step"][name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(name, found["step"][name], flush=True)
        written = write(options.out, name_of_file, found)
    print(written)


if __name__ == "__main__":
    main()
