"""Time and memory to load and to convert weights of ViT-B/32's size: `python -m benchmarks.bench_load`.

Random weights are saved in our format and exported to the Hugging Face layout. Each is then read in its own process,
and the peak memory is compared with the memory after the imports. Writes bench_load.json.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import parse_arguments, write
from hbi_jax import pretrained
from hbi_jax.models.clip import CLIP
from hbi_jax.models.config import CLIPConfig

# Prints the seconds, and in bytes the memory after the imports and the peak memory.
MEASURED = """
import json, re, sys, time
from hbi_jax import pretrained
import jax.numpy, flax.linen, hbi_jax.models.hbi
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
before, begun = peak(), time.perf_counter()
source, destination = sys.argv[1:]
if destination:
    pretrained.convert(source, destination)
else:
    weights = pretrained.load(source, progress=False)
print(json.dumps([time.perf_counter() - begun, before, peak()]))
"""
CALLS = 3


def random_clip() -> pretrained.Pretrained:
    """Returns a CLIP of ViT-B/32's size with random weights."""
    config = CLIPConfig()
    inputs = (jnp.zeros((1, 77), jnp.int32), jnp.ones((1, 77), bool), jnp.zeros((1, 224, 224, 3), jnp.uint8))
    shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32), shapes)
    return pretrained.Pretrained("clip", dataclasses.asdict(config), params)


def measure(source: pathlib.Path, destination: pathlib.Path | None = None) -> dict[str, float]:
    """Returns the median time of several processes, and the largest of their peaks above the imports."""
    rows = []
    for call in range(CALLS):
        target = str(destination.with_name(f"{destination.name}{call}")) if destination else ""
        command = [sys.executable, "-c", MEASURED, str(source), target]
        rows.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[-2])
        )
    seconds, before, peak = zip(*rows, strict=True)
    return {
        "median_s": round(float(np.median(seconds)), 2),
        "min_s": round(min(seconds), 2),
        "max_s": round(max(seconds), 2),
        "peak_above_imports_mib": round(max(b - a for a, b in zip(before, peak, strict=True)) / 2**20),
    }


def main() -> None:
    """Measures and writes the JSON."""
    out = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = pathlib.Path(scratch) / "ours", pathlib.Path(scratch) / "theirs"
        pretrained.save(ours, random_clip())
        pretrained.export(ours, theirs)
        size = (ours / "model.safetensors").stat().st_size
        results = {
            "size_mib": round(size / 2**20),
            "calls": CALLS,
            "load": measure(ours),
            "convert": measure(theirs, pathlib.Path(scratch) / "converted"),
        }
    print(results)
    print(write(out, "bench_load", results))


if __name__ == "__main__":
    main()
