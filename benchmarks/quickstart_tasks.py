"""The quickstarts of questions and of captions, each from its command to its report, rendering included.

    make quickstart && python -m benchmarks.quickstart_tasks --out benchmarks/results

Claims, on two CPU cores: at most 8 minutes each; 25 points more of the questions right than a model that was trained
without ever seeing a frame; of half of the test videos the caption says rightly what happens first. Captioning starts
from the work folder of `make quickstart`, runs/quickstart.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import parse_arguments, write

ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART = ROOT / "runs" / "quickstart"


def run(config: str, workdir: pathlib.Path, *flags: str) -> dict:
    """Wall time of `python -m hbi_jax.main`, which must succeed, and its report."""
    begun = time.perf_counter()
    program = [sys.executable, "-m", "hbi_jax.main", f"--config=configs/{config}.py", f"--workdir={workdir}"]
    subprocess.run([*program, *flags], cwd=ROOT, check=True)
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "report": json.loads((workdir / "report.json").read_text()),
    }


def table(report: dict) -> dict:
    """What a report says of the test split."""
    test = report["tables"][0]
    rows = {name: dict(zip(test["columns"], values, strict=True)) for name, values in test["rows"]}
    return {"rows": rows, "note": test["note"]}


def main() -> None:
    """Runs them and writes quickstart_tasks.json."""
    out = parse_arguments(__doc__)
    if not (QUICKSTART / "report.json").exists():
        sys.exit(f"error: {QUICKSTART} holds no finished run; run make quickstart first")
    with tempfile.TemporaryDirectory() as folder:
        captions, questions, blind = (pathlib.Path(folder) / name for name in ("captions", "questions", "blind"))
        captioned = run("quickstart_caption", captions, f"--config.init={QUICKSTART}")
        answered = run("quickstart_qa", questions)
        data = [f"--config.data.annotations={questions}/data", f"--config.data.videos={questions}/data/videos"]
        run("quickstart_qa", blind, "--config.answers.question_only=True", *data)
        compared = run("quickstart_qa", questions, "--mode=evaluate", f"--config.eval.question_only_run={blind}")
    results = {
        name: {"seconds": made["seconds"], "training": made["report"]["training"], **table(shown["report"])}
        for name, made, shown in (("captions", captioned, captioned), ("questions", answered, compared))
    }
    print(write(out, "quickstart_tasks", results).read_text())


if __name__ == "__main__":
    main()
