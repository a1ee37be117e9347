"""Times the quickstarts of question answering and captioning from command to report, including rendering.

    python -m benchmarks.quickstart_tasks --out benchmarks/results

Goals, on two CPU cores: at most 5 minutes each; an accuracy 25 points above a model trained without frames; a caption
with the right first event for half of the test videos. Both start from shapes-clip.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import parse_arguments, write

ROOT = pathlib.Path(__file__).parents[1]


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


def main() -> None:
    """Runs the quickstarts and writes quickstart_tasks.json."""
    out = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        captions, questions, blind = (pathlib.Path(folder) / name for name in ("captions", "questions", "blind"))
        captioned = run("quickstart_caption", captions)
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
