"""Shared code of the commands that apply a finished run to video files: options, output and exit codes."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hbi_jax.commands.cli import start_logging
from hbi_jax.commands.output import jsonl, print_any_name


def parser(command: str, doc: str) -> argparse.ArgumentParser:
    """Returns a parser with the shared options and the video files.

    Args:
      command: The name of the command's module.
      doc: The docstring of that module, for `--help`.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--checkpoint",
        required=True,
        metavar="FOLDER",
        help="work folder of a run (its best checkpoint is used), or one of its steps, such as FOLDER/checkpoints/STEP",
    )
    add_jsonl(made)
    made.add_argument("videos", nargs="+", metavar="video", help="video files")
    return made


def add_jsonl(made: argparse.ArgumentParser) -> None:
    """Adds the option `--jsonl`."""
    text = "also write the results to this file, one JSON object per line"
    made.add_argument("--jsonl", type=os.path.expanduser, metavar="FILE", help=text)


def start() -> None:
    """Prepares logs and output; call it before JAX is imported."""
    # XLA's start-up messages only help to debug XLA itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    start_logging(verbose=False)
    print_any_name()


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
    """Applies the run, prints the results and writes them to `--jsonl`.

    Args:
      options: The parsed options.
      apply: Computes the results. Each result has an `error`, which is None on success.
      say: Formats a successful result as text.

    Returns:
      The exit code: 1 if anything failed, even a single video; 130 if the command was interrupted.
    """
    start()
    try:
        with jsonl(options.jsonl) as write:
            results = apply()
            write(result._asdict() for result in results)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    failed = dict.fromkeys(result.error for result in results if result.error is not None)
    for result in results:
        if result.error is None:
            print(say(result))
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0
