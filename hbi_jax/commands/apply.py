"""What the commands share that apply a finished run to video files: their options, output and exit codes."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hbi_jax.commands.cli import start_logging


def parser(command: str, doc: str) -> argparse.ArgumentParser:
    """The options that all of them have, and the video files.

    Args:
      command: Name of the module.
      doc: Its docstring, for `--help`.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--checkpoint",
        required=True,
        metavar="FOLDER",
        help="work folder of a run (its best checkpoint), or one step of it, such as FOLDER/checkpoints/500",
    )
    made.add_argument("--jsonl", metavar="FILE", help="also write the results there, one JSON object a line")
    made.add_argument("videos", nargs="+", metavar="video", help="video files")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses options and positionals in any order; what comes after `--` is positional, whatever it starts with.

    Args:
      made: The parser.
      arguments: Without the program's name; None: those of the command line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--" in arguments:
        place = arguments.index("--")
        # argparse parses twice where the order is free, and forgets `--` on the way. No argument of a program can
        # hold a NUL, so it marks those that are no options.
        arguments[place:] = [f"\0{argument}" for argument in arguments[place + 1 :]]

    def plain(value: object) -> object:
        if isinstance(value, list):
            return list(map(plain, value))
        return value.removeprefix("\0") if isinstance(value, str) else value

    options = made.parse_intermixed_args(arguments)
    return argparse.Namespace(**{name: plain(value) for name, value in vars(options).items()})


def run(options: argparse.Namespace, apply: Callable[[], Sequence[NamedTuple]], say: Callable[..., str]) -> int:
    """Does the work, prints the results and writes them down.

    Args:
      options: As parsed.
      apply: The work; gives results that have an `error`, which is None where all went well.
      say: A result without error as text.

    Returns:
      The exit code: 1 where something failed, be it one video among many.
    """
    # XLA's start-up messages help nobody who is not debugging it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    start_logging(verbose=False)
    try:
        # A file that cannot be written is told before the work; what it held stays until there is something new.
        with open(options.jsonl or os.devnull, "a", encoding="utf-8") as file:
            results = apply()
            if options.jsonl:
                file.truncate(0)
            file.writelines(json.dumps(result._asdict(), ensure_ascii=False) + "\n" for result in results)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = dict.fromkeys(result.error for result in results if result.error is not None)
    for result in results:
        if result.error is None:
            print(say(result))
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0
