"""Trains and evaluates a video-text model.

  python -m hbi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
  python -m hbi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=evaluate

Any field of the configuration can be set on the command line, --config.train.batch_size=32; hbi_jax/config.py
lists them all with their meaning. An interrupted run goes on when the same command is given again.
"""

import difflib
import logging
import os
import sys
from collections.abc import Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from hbi_jax.config import default_config

# Only what parses flags is imported above: --help and a mistyped field are answered at once.

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file such as configs/quickstart.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, logs, report and pictures; made where it is missing."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: train, or go on training, then evaluate. evaluate: only that.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "What --mode=evaluate takes: another work folder (its best checkpoint), one step of it, such as "
    "runs/quickstart/checkpoints/500, or a folder of converted weights. By default the best of --workdir.",
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "Join the other processes of one job. On Cloud TPU they are found; elsewhere give --coordinator, "
    "--num_processes and --process_id.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where an error came from.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "Show what the libraries log, too.")

_OVERRIDE = "--config."


def main(argv: Sequence[str]) -> None:
    """Runs the job that the flags describe. What cannot work ends in one message and exit code 1."""
    if len(argv) > 1:
        _fail(f"unexpected argument {argv[1]!r}; fields are set as --config.field=value")
    for flag, example in ((_CONFIG, "configs/quickstart.py"), (_WORKDIR, "runs/quickstart")):
        if flag.value is None:
            _fail(f"--{flag.name} is missing; give it, for instance --{flag.name}={example}")
    if _MODE.value == "train" and _CHECKPOINT.value is not None:
        _fail("--checkpoint is what --mode=evaluate takes; training goes on from --workdir by itself")
    from hbi_jax.train.preemption import PreemptedError

    try:
        _run()
    except PreemptedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except (ValueError, OSError) as error:
        # What a user can mend is raised as a ValueError that names field, got, wanted and remedy.
        if _TRACEBACK.value:
            raise
        _fail(f"{error}\n(--traceback shows where this comes from)")


def _run() -> None:
    import jax

    from hbi_jax import experiment

    _start_logging()
    if _MULTIHOST.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    setup = experiment.prepare(_CONFIG.value, _WORKDIR.value)
    if _MODE.value == "train":
        experiment.train(setup)
    experiment.evaluate(setup, _CHECKPOINT.value)


def _start_logging() -> None:
    """This package's messages in short lines; the libraries' only on demand: what fails is raised as well."""
    absl_logging.set_verbosity(absl_logging.INFO if _VERBOSE.value else absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("hbi_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parser, with one plain line for a configuration that is not one."""
    names = [argument[len(_OVERRIDE) :].split("=")[0] for argument in argv if argument.startswith(_OVERRIDE)]
    for argument in argv:
        name, _, value = argument.partition("=")
        if name == "--config" and not os.path.isfile(value.split(":")[0]):
            _fail(f"--config={value}: wanted a configuration file; there is none at that path, correct it")
    if names and not any(argument.split("=")[0] in ("--config", "-config") for argument in argv):
        _fail(f"{_OVERRIDE}{names[0]} is set but --config is missing; add for instance --config=configs/quickstart.py")
    try:
        arguments = app.parse_flags_with_usage(argv)
        # A config file is read when the flag's value is first asked for.
        _ = _CONFIG.value
    except (AttributeError, KeyError) as error:
        fields = _fields(default_config())
        unknown = next((name for name in names if name not in fields), None)
        if unknown is None:
            _fail(f"--config: {error}")
        near = difflib.get_close_matches(unknown, fields, 3, 0.5)
        _fail(
            f"config.{unknown} is no field of the configuration; "
            + (f"did you mean config.{' or config.'.join(near)}?" if near else "hbi_jax/config.py lists them all")
        )
    except (ValueError, TypeError, OSError) as error:
        _fail(f"--config: {error}")
    return arguments


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
    """The dotted names of all fields and sections."""
    names = []
    for name in config:
        names.append(prefix + name)
        if isinstance(config.get_ref(name).get(), ConfigDict):
            names += _fields(config[name], f"{prefix}{name}.")
    return names


def run() -> None:
    """The console entry point."""
    # XLA's start-up messages help nobody who is not debugging it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if __name__ != "__main__":
        # absl's --help tells of the module that was started; the console script is not this one.
        sys.modules["__main__"].__doc__ = __doc__
        for flag in flags.FLAGS.get_key_flags_for_module(__name__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
