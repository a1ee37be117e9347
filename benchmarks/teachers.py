"""Compares the three teachers of the interaction: label error, step time and retrieval results.

    python -m benchmarks.teachers --out benchmarks/results [--seeds 0 1 2] [--workdir runs/teachers]

The estimator is pre-trained on the exact-teacher model of the first seed. Every run is a call of
`python -m hbi_jax.main` on the embedded data set. Start the script again to resume an interrupted run; finished runs
are kept. The step times of all teachers are measured at the end, in one process.
"""

import argparse
import functools
import pathlib
import time

import jax
import numpy as np

from benchmarks.harness import write
from configs.quickstart import get_config
from hbi_jax.ablations import runs
from hbi_jax.ablations.results import summary
from hbi_jax.config import parse
from hbi_jax.models.hbi import HBI
from hbi_jax.parallel.mesh import make_mesh, put_batch
from hbi_jax.tasks.retrieval.objective import retrieval_loss
from hbi_jax.tasks.task import abstract_batch, init_model
from hbi_jax.tasks.teacher import make_teacher
from hbi_jax.train.optimizer import make_optimizer
from hbi_jax.train.state import init_state, state_shardings
from hbi_jax.train.step import compile_step, make_train_step

CONFIG = "configs/quickstart.py"
TEACHERS = ("exact", "estimator", "sampled")
STEPS = 20


def overrides(teacher: str, estimator: pathlib.Path) -> dict[str, str]:
    """Returns the fields that select a teacher."""
    return {"teacher": teacher, "estimator": str(estimator) if teacher == "estimator" else ""}


def step_ms(teacher: str, estimator: pathlib.Path) -> dict[str, float]:
    """Times whole training steps of the quickstart with a teacher and a batch in memory; median and spread."""
    config = get_config()
    config.loss.update(overrides(teacher, estimator))
    config = parse(config)
    model, mesh, rng = HBI(config.model), make_mesh(), np.random.default_rng(0)
    init_params = functools.partial(init_model, model, config)
    tx = make_optimizer(config.optimizer, jax.eval_shape(init_params), 1000)
    state = init_state(init_params, tx, mesh)
    shapes = abstract_batch(config)
    batch = jax.tree.map(lambda leaf: rng.integers(0, 2, leaf.shape).astype(leaf.dtype), shapes)
    rows = np.arange(config.train.batch_size, dtype=np.int32)
    masks = {name: np.ones_like(getattr(batch, name)) for name in ("text_mask", "frame_mask", "example_mask")}
    batch = put_batch(batch._replace(video_index=rows, record_index=rows, **masks), mesh)
    loss_fn = functools.partial(retrieval_loss, model, config.loss, make_teacher(config.loss, config.model.padding))
    step = compile_step(make_train_step(loss_fn, tx, mesh, state_shardings(state)), state, batch)
    times = []
    for call in range(STEPS + 1):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        if call:
            times.append(1e3 * (time.perf_counter() - begun))
    return {
        "median_ms": round(float(np.median(times)), 1),
        "min_ms": round(min(times), 1),
        "max_ms": round(max(times), 1),
    }


def label_errors(report: dict) -> dict[str, dict[str, list[float]]]:
    """Returns RMSE, correlation and top-1 of estimator and sampling per level, on the test gallery."""
    out: dict[str, dict[str, list[float]]] = {"estimator": {}, "sampled": {}, "zero": {}}
    for name, values in report["tables"][0]["rows"]:
        level, _, method = name.partition(": ")
        kind = "sampled" if method.startswith("sampled") else "zero" if "zero" in method else "estimator"
        out[kind][level] = values
    return out


def main() -> None:
    """Makes all runs and writes teachers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    workdir, shared = arguments.workdir, runs.world(arguments.workdir)
    estimator, reports, pretraining = workdir / "estimator", {}, {}
    for teacher in TEACHERS:
        for seed in arguments.seeds:
            chosen = [f"--config.loss.{name}={value}" for name, value in overrides(teacher, estimator).items()]
            folder = workdir / f"{teacher}-{seed}"
            report = runs.run(folder, CONFIG, f"--config.seed={seed}", *shared, *chosen)
            reports.setdefault(teacher, []).append(report)
            if not pretraining:
                init = f"--config.init={folder}"
                pretraining = runs.run(estimator, "configs/estimator.py:quickstart", init, *shared)
    config = pretraining["config"]
    results = {
        "seeds": arguments.seeds,
        "labels": label_errors(pretraining),
        "label_scale": config["loss"]["interaction_scale"],
        "num_samples": config["estimator"]["num_samples"],
        "pretraining_seconds": pretraining["training"]["seconds"],
        "table": {teacher: summary([runs.figures(report) for report in rows]) for teacher, rows in reports.items()},
        "step": {teacher: step_ms(teacher, estimator) for teacher in TEACHERS},
        "batch_size": config["train"]["batch_size"],
        "test_videos": reports["exact"][0]["galleries"][0]["videos"],
    }
    write(arguments.out, "teachers", results)
    for teacher in TEACHERS:
        print(teacher, results["step"][teacher], results["table"][teacher])


if __name__ == "__main__":
    main()
