"""The effect of bfloat16 activations on the ranks of a trained model.

    python -m benchmarks.bench_bfloat16 --workdir RUN

Encodes and scores galleries of the embedded world in float32 and in bfloat16, with the best checkpoint of the
quickstart's work folder: 500 test videos, rendered for this benchmark, and the near-twins. Writes bench_bfloat16.json.
Takes about a minute after `make quickstart`.
"""

import argparse
import dataclasses
import pathlib
import tempfile

import numpy as np

from benchmarks import harness
from hbi_jax.data.dataset import Dataset
from hbi_jax.metrics import ranks
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh
from hbi_jax.tasks.config import Config, read_config
from hbi_jax.tasks.gallery import Gallery
from hbi_jax.tasks.retrieval.task import make_evaluator
from hbi_jax.tasks.weights import load_weights

DTYPES = ("float32", "bfloat16")
TEST_VIDEOS = 500


def compare(galleries: list[Gallery], similarities: list[np.ndarray]) -> dict:
    """Compares the text-to-video ranks of the two similarities."""
    before, after = (
        ranks(similarity, gallery.text_to_video) for gallery, similarity in zip(galleries, similarities, strict=True)
    )
    change = np.abs(after - before)
    return {
        "texts": len(before),
        "videos": similarities[0].shape[1],
        "share_of_texts_whose_rank_changes": float(np.mean(change > 0)),
        "mean_change": float(change.mean()),
        "largest_change": int(change.max()),
        "largest_change_of_similarity": float(np.abs(similarities[1] - similarities[0]).max()),
        "spread_of_similarity": float(similarities[0].std()),
        **{
            f"R@1 {dtype}": 100 * float(np.mean(rank == 1)) for dtype, rank in zip(DTYPES, (before, after), strict=True)
        },
    }


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"), help="a finished run")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="folder of the JSON"
    )
    options = parser.parse_args()
    config = read_config(options.workdir / "config.json")
    with tempfile.TemporaryDirectory() as world:
        config = config.replace(
            data__annotations=world,
            data__videos=f"{world}/videos",
            data__world={**config.data.world, "num_train": 64, "num_val": 8, "num_test": TEST_VIDEOS},
        )
        Dataset(config.data, config.model.clip.image_size).render()
        results = compare_all(config, options.workdir)
    options.out.mkdir(parents=True, exist_ok=True)
    print(harness.write(options.out, "bench_bfloat16", {"model": config.name, "galleries": results}))


def compare_all(config: Config, workdir: pathlib.Path) -> dict:
    """Compares every gallery of the configuration, with the best checkpoint of a work folder."""
    params, mesh, results = load_weights(str(workdir)).params, make_mesh(), {}
    dataset = Dataset(config.data, config.model.clip.image_size, str(workdir))
    for name in dataset.galleries:
        source = dataset.source(dataset.split(name))
        galleries, similarities = [], []
        for dtype in DTYPES:
            model = HBI(dataclasses.replace(config.model, dtype=dtype))
            evaluator = make_evaluator(model, config, mesh)
            galleries.append(evaluator.encoder.encode(params, source, config.data.num_threads))
            similarities.append(evaluator.similarity(params, galleries[-1]))
        results[name] = compare(galleries, similarities)
        print(name, results[name])
    return results


if __name__ == "__main__":
    main()
