"""Answers a question about video files with the model of a finished run.

  python -m hbi_jax.ask --checkpoint=runs/quickstart_qa video.mp4 "what color is the shape that spins?"
  python -m hbi_jax.ask --checkpoint=runs/quickstart_qa *.mp4 "what happens first?" --top=3 --jsonl=answers.jsonl

If a video cannot be read, the command names it, answers for the others, and exits with code 1.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hbi_jax.commands import apply

if TYPE_CHECKING:
    from hbi_jax.tasks.answers.inference import Answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = apply.parse(_parser(), arguments)

    def answer() -> "Sequence[Answer]":
        if os.path.exists(options.question):
            raise ValueError(f"the last argument, {options.question}, is a file: wanted a question after the videos")
        from hbi_jax.tasks.answers.inference import answer_questions

        return answer_questions(options.checkpoint, options.videos, options.question, options.top)

    return apply.run(options, answer, _say)


def _say(result: "Answer") -> str:
    width = max(map(len, result.answers))
    rows = zip(result.answers, result.probabilities, strict=True)
    lines = (f"  {answer:{width}} {100 * probability:6.1f} %" for answer, probability in rows)
    return "\n".join((f"{result.video}: {result.question}", *lines))


def _parser() -> argparse.ArgumentParser:
    parser = apply.parser("hbi_jax.ask", __doc__)
    parser.add_argument("question", help="the question about each video, in quotation marks")
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of answers to print (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
