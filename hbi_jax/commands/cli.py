"""Shared code of the commands that take a configuration: flags, short logs, one-line errors."""

import difflib
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from hbi_jax.commands import config_files
from hbi_jax.fields import ConfigError

# Import nothing heavier than the flag parser above, so that --help and mistyped fields are answered at once.

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Name of a configuration, such as quickstart (--config=quickstart --help describes it), or a file.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs, report and pictures; created if needed.")
TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the traceback of an error.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Also show the logs of other libraries.")

_OVERRIDE = "--config."


def fail(message: str) -> NoReturn:
    """Ends the program with one message and exit code 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def wanted(*examples: tuple[flags.FlagHolder, str]) -> None:
    """Ends the program if a flag is missing. Each flag comes with an example value for the message."""
    for flag, example in examples:
        if flag.value is None:
            fail(f"--{flag.name} is missing; give it, for instance --{flag.name}={example}")


def start_logging(verbose: bool) -> None:
    """Logs this package's messages in short lines, and other libraries' only if `verbose`: failures also raise."""
    absl_logging.set_verbosity(absl_logging.INFO if verbose else absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("hbi_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


# Does the work and returns the exit code; None means 0.
Command = Callable[[], int | None]


def run(command: Command | Mapping[str, Command], module: str, doc: str) -> None:
    """Parses the command line and runs a command. A user error ends it with one message and exit code 1; Ctrl-C, 130.

    Args:
      command: The command, or several commands by name, selected by the first argument. It raises errors that a user
        can fix as ValueError or OSError with field, got, wanted and remedy.
      module: `__name__` of the command's module. `--help` shows its flags and those of this module.
      doc: The docstring of that module, for `--help`.
    """
    # Tracing makes many objects and little garbage. Looking for it as often as usual takes a tenth of a job's start.
    gc.set_threshold(20_000, 10, 20)
    # XLA's start-up messages only help to debug XLA itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # absl's --help prints the docstring of __main__, which may be a console script instead of the command's module. It
    # formats the text, so percent signs are doubled.
    sys.modules["__main__"].__doc__ = f"{doc}\n{_configurations()}\n".replace("%", "%%")
    for name in (module, __name__):
        for flag in flags.FLAGS.get_key_flags_for_module(name):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.define_help_flags()
    for name in ("help", "helpshort", "helpfull", "helpxml"):
        flags.FLAGS[name].parse = _ending_well(flags.FLAGS[name].parse)

    def main(argv: Sequence[str]) -> None:
        chosen, rest = command, argv[1:]
        if isinstance(command, Mapping):
            name, rest = (rest[0] if rest else None), rest[1:]
            if name not in command:
                got = "no command" if name is None else f"unknown command {name!r}"
                fail(f"{got}; wanted one of {', '.join(command)}; write it before the flags")
            chosen = command[name]
        if rest:
            fail(f"unexpected argument {rest[0]!r}; fields are set as --config.field=value")
        start_logging(_VERBOSE.value)
        try:
            sys.exit(chosen())
        except (ValueError, OSError) as error:
            if TRACEBACK.value:
                raise
            fail(f"{error}\n(--traceback shows where this comes from)")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(main, flags_parser=_parse)


def _ending_well(parse: Callable[[str], None]) -> Callable[[str], None]:
    """Returns what a flag does that shows help and ends the program: the same, but not with absl's exit code 1."""

    def parse_well(argument: str) -> None:
        try:
            parse(argument)
        except SystemExit:
            sys.exit(0)

    return parse_well


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags with absl; reports an invalid configuration in one line."""
    names = [argument[len(_OVERRIDE) :].split("=")[0] for argument in argv if argument.startswith(_OVERRIDE)]
    if names and not config_files.chosen(argv):
        fail(f"{_OVERRIDE}{names[0]} is set but --config is missing; add for instance --config=quickstart")
    try:
        arguments = app.parse_flags_with_usage(config_files.with_paths(argv))
        # The config file is read on first access to the flag's value.
        _ = CONFIG.value
    except (AttributeError, KeyError) as error:
        known = _names(config_files.load(config_files.chosen(argv)))
        unknown = next((name for name in names if name not in known), None)
        if unknown is None:
            fail(f"--config: {error}")
        near = difflib.get_close_matches(unknown, known, 3, 0.5)
        fail(
            f"config.{unknown} is no field of the configuration; "
            + (
                f"did you mean config.{' or config.'.join(near)}?"
                if near
                else "`python -m hbi_jax.main --explain=all` lists them"
            )
        )
    except ConfigError as error:
        fail(str(error))
    except (ValueError, TypeError, OSError) as error:
        fail(f"--config: {error}")
    return arguments


def _configurations() -> str:
    """Returns the help text on configurations if --help is given, otherwise an empty string."""
    if not any(argument.lstrip("-").startswith("help") for argument in sys.argv[1:]):
        return ""
    try:
        return config_files.help_text(sys.argv[1:])
    except (ConfigError, OSError) as error:
        fail(str(error))


def _names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all fields and sections."""
    names = []
    for name in config:
        names.append(prefix + name)
        if isinstance(config.get_ref(name).get(), ConfigDict):
            names += _names(config[name], f"{prefix}{name}.")
    return names
