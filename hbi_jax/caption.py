"""Says what happens in video files with the model of a finished run.

  python -m hbi_jax.caption --checkpoint=runs/quickstart_caption video.mp4
  python -m hbi_jax.caption --checkpoint=runs/quickstart_caption *.mp4 --method=greedy --jsonl=captions.jsonl

A video that cannot be read is named, the others are captioned, and the exit code is 1.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from hbi_jax.choices import DecodingMethod
from hbi_jax.commands import apply

if TYPE_CHECKING:
    from hbi_jax.tasks.captions.inference import Caption


def main(arguments: Sequence[str] | None = None) -> int:
    """Captions as the arguments ask; returns the exit code."""
    options = apply.parse(_parser(), arguments)

    def caption() -> "Sequence[Caption]":
        from hbi_jax.tasks.captions.inference import generate_captions

        return generate_captions(options.checkpoint, options.videos, options.method, options.top, options.seed)

    return apply.run(options, caption, _say)


def _say(result: "Caption") -> str:
    first, *others = (text or "(an empty caption)" for text in result.captions)
    return "\n".join((f"{result.video}: {first}", *(f"{'':{len(result.video)}}  {text}" for text in others)))


def _parser() -> argparse.ArgumentParser:
    parser = apply.parser("hbi_jax.caption", __doc__)
    parser.add_argument(
        "--method", choices=get_args(DecodingMethod), help="how captions are made (default: as the run says)"
    )
    parser.add_argument("--top", type=int, default=1, metavar="N", help="captions of each video (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --method=sample (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
