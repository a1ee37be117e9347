"""Captions video files with the model of a finished run.

  python -m hbi_jax.caption --checkpoint=runs/quickstart_caption video.mp4
  python -m hbi_jax.caption --checkpoint=runs/quickstart_caption *.mp4 --method=greedy --jsonl=captions.jsonl

If a video cannot be read, the command names it, captions the others, and exits with code 1.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from hbi_jax.choices import DecodingMethod
from hbi_jax.commands import apply
from hbi_jax.commands.seeds import parse_seed

if TYPE_CHECKING:
    from hbi_jax.tasks.captions.inference import Caption


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = apply.parse(_parser(), arguments)

    def caption() -> "Sequence[Caption]":
        seed = parse_seed(options.seed)
        from hbi_jax.tasks.captions.inference import generate_captions

        return generate_captions(options.checkpoint, options.videos, options.method, options.top, seed)

    return apply.run(options, caption, _say)


def _say(result: "Caption") -> str:
    first, *others = (text or "(an empty caption)" for text in result.captions)
    return "\n".join((f"{result.video}: {first}", *(f"{'':{len(result.video)}}  {text}" for text in others)))


def _parser() -> argparse.ArgumentParser:
    parser = apply.parser("hbi_jax.caption", __doc__)
    parser.add_argument(
        "--method", choices=get_args(DecodingMethod), help="decoding method (default: the method of the run)"
    )
    parser.add_argument("--top", type=int, default=1, metavar="N", help="captions per video (default: %(default)s)")
    parser.add_argument("--seed", default="0", metavar="N", help="seed of --method=sample (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
