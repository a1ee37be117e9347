"""Times the quickstarts of retrieval, question answering and captioning from command to report, including rendering.

    python -m benchmarks.quickstart_tasks --out benchmarks/results

Goals, on two CPU cores: at most 5 minutes each; text-to-video R@1 of 75 and 65 % right among near-twins, with five
seeds; an accuracy 25 points above a model trained without frames; a caption with the right first event for half of the
test videos. All start from shapes-clip. The seeds of retrieval share one rendered world.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import parse_arguments, write
from hbi_jax.ablations.results import summary
from hbi_jax.ablations.runs import chance, figures, world

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = (0, 1, 2, 3, 4)
# The tables of the report that tell where words point.
POINTING = ("pointing, gallery 'test'", "pointing in space, gallery 'test'")


def run(config: str, workdir: pathlib.Path, *flags: str) -> dict:
    """Runs `python -m hbi_jax.main` and returns its wall time and its report. Raises if it fails."""
    begun = time.perf_counter()
    program = [sys.executable, "-m", "hbi_jax.main", f"--config=configs/{config}.py", f"--workdir={workdir}"]
    subprocess.run([*program, *flags], cwd=ROOT, check=True)
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "report": json.loads((workdir / "report.json").read_text()),
    }


def table(report: dict) -> dict:
    """Returns the table of the test split from a report."""
    test = report["tables"][0]
    rows = {name: dict(zip(test["columns"], values, strict=True)) for name, values in test["rows"]}
    return {"rows": rows, "note": test["note"]}


def areas(report: dict) -> dict[str, float]:
    """Returns how well interactions tell true frames from false ones (AUC), by the role of the word."""
    table = next(table for table in report["tables"] if table["name"] == POINTING[0])
    own, place = "interaction: ", table["columns"].index("AUC")
    return {f"{name.removeprefix(own)} AUC": row[place] for name, row in table["rows"] if name.startswith(own)}


def retrieval(workdir: pathlib.Path) -> dict:
    """Returns the results of retrieval over the seeds, and the time of the first, which renders the world."""
    first, *others = (workdir / f"seed_{seed}" for seed in SEEDS)
    runs = [run("quickstart", first)]
    runs += [
        run("quickstart", folder, f"--config.seed={seed}", *world(first))
        for folder, seed in zip(others, SEEDS[1:], strict=True)
    ]
    reports = [made["report"] for made in runs]
    found = [figures(report) | areas(report) for report in reports]
    return {
        "seconds": runs[0]["seconds"],
        "training": reports[0]["training"],
        "runs": dict(zip(SEEDS, found, strict=True)),
        "summary": summary(found),
        "chance": chance(reports[0]),
        "pointing": {
            shown["name"]: {"columns": shown["columns"], "rows": dict(shown["rows"])}
            for shown in reports[0]["tables"]
            if shown["name"] in POINTING
        },
    }


def main() -> None:
    """Runs the quickstarts and writes quickstart_tasks.json."""
    out = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        retrieved = retrieval(pathlib.Path(folder) / "retrieval")
        captions, questions, blind = (pathlib.Path(folder) / name for name in ("captions", "questions", "blind"))
        captioned = run("quickstart_caption", captions)
        answered = run("quickstart_qa", questions)
        data = [f"--config.data.annotations={questions}/data", f"--config.data.videos={questions}/data/videos"]
        run("quickstart_qa", blind, "--config.answers.question_only=True", *data)
        compared = run("quickstart_qa", questions, "--mode=evaluate", f"--config.eval.question_only_run={blind}")
    results = {"retrieval": retrieved} | {
        name: {"seconds": made["seconds"], "training": made["report"]["training"], **table(shown["report"])}
        for name, made, shown in (("captions", captioned, captioned), ("questions", answered, compared))
    }
    print(write(out, "quickstart_tasks", results).read_text())


if __name__ == "__main__":
    main()
