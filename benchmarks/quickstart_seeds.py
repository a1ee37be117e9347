"""The quickstart over several seeds, beside a mean-pooling model trained with the same budget.

    python -m benchmarks.quickstart_seeds --out benchmarks/results [--seeds 0 1 2] [--workdir runs/seeds]

With `--parallel 2` two runs share the machine: the results are the same, the times are not worth quoting. Every run is
a call of `python -m hbi_jax.main`; start the script again to go on with what was interrupted, finished runs are kept.
Seeds change initialisation and the order of the data; the rendered videos are the same ones.
"""

import argparse
import concurrent.futures
import pathlib

from benchmarks.harness import write
from hbi_jax import runs
from hbi_jax.evaluate.ablation import summary

# Overrides of configs/quickstart.py.
METHODS = {
    "HBI": (),
    "mean pooling, contrastive only": (
        "--config.name=mean pooling",
        "--config.model.pooled=True",
        "--config.model.levels=(('entity', 0, 0),)",
        "--config.eval.level_rates=(1.0,)",
        "--config.loss.interaction_weight=0.0",
    ),
}


def run(method: str, seed: int, workdir: pathlib.Path, extra: list[str]) -> dict:
    """Trains and evaluates one method with one seed, unless that is done already; gives its report."""
    folder = workdir / f"{'-'.join(method.replace(',', '').split())}-{seed}"
    flags = (f"--config.seed={seed}", *runs.world(workdir), *METHODS[method], *extra)
    return runs.run(folder, "configs/quickstart.py", *flags)


def main() -> None:
    """Runs all and writes quickstart_seeds.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, extra = parser.parse_known_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    jobs = [(method, seed) for seed in arguments.seeds for method in METHODS]
    with concurrent.futures.ThreadPoolExecutor(arguments.parallel) as pool:
        done = list(pool.map(lambda job: run(*job, arguments.workdir, extra), jobs))
    reports = {
        method: [report for (name, _), report in zip(jobs, done, strict=True) if name == method] for method in METHODS
    }
    figures = {method: [runs.figures(report) for report in rows] for method, rows in reports.items()}
    figures["untrained"] = [runs.figures(report, row=-1) for report in reports["HBI"]]
    table = {method: summary(rows) for method, rows in figures.items()}
    test, twins = reports["HBI"][0]["galleries"]
    results = {
        "seeds": arguments.seeds,
        "table": table,
        "chance": runs.chance(reports["HBI"][0]),
        "test_videos": test["videos"],
        "twin_videos": twins["videos"],
        "runs": figures,
        "training": {method: [report["training"] for report in rows] for method, rows in reports.items()},
    }
    write(arguments.out, "quickstart_seeds", results)
    for method, row in table.items():
        print(method, *(f"{name} {x['mean']} ({x['min']}-{x['max']})" for name, x in row.items()), sep="\n  ")


if __name__ == "__main__":
    main()
