"""Trains and evaluates: `python -m hbi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart`.

Every field of the configuration can be set on the command line, `--config.train.batch_size=64`;
hbi_jax/config.py lists them all with their meaning. A run that was interrupted goes on when the same command
is given again.
"""

import os
import sys
from collections.abc import Sequence

from absl import app, flags, logging

# Only what parses flags is imported before the flags are parsed: --help and a typo answer at once.
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, logs, report and pictures; made on demand."
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "train: train, or go on, then evaluate. evaluate: only evaluate."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "With --mode=evaluate: a work folder (its best checkpoint is taken) or one step of it, such as "
    "runs/quickstart/checkpoints/500. By default --workdir.",
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join the other processes: on Cloud TPU they are found, elsewhere give the next three."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def main(argv: Sequence[str]) -> None:
    """Runs the job that the flags describe; exit code 1 and one message where that cannot work."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; fields are set as --config.field=value")
    for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
        if flag.value is None:
            raise app.UsageError(f"--{name} is missing; for instance --{name}=" + _EXAMPLES[name])
    from hbi_jax.train.preemption import PreemptedError

    try:
        _run()
    except PreemptedError as stop:
        logging.warning("%s", stop)
        sys.exit(128 + 15)
    except (ValueError, OSError) as error:
        # ValueError is what this package raises for what a user can mend, with field, got, wanted and remedy.
        if _TRACEBACK.value:
            raise
        _fail(f"{error}")


_EXAMPLES = {"config": "configs/quickstart.py", "workdir": "runs/quickstart"}


def _fail(message: str) -> None:
    """One message on standard error, exit code 1."""
    logging.flush()
    print(f"error: {message}\n(--traceback shows where it came from)", file=sys.stderr)
    sys.exit(1)


def _run() -> None:
    import jax

    from hbi_jax import experiment

    if _MULTIHOST.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    setup = experiment.prepare(_CONFIG.value, _WORKDIR.value)
    if _MODE.value == "train":
        experiment.train(setup)
    experiment.evaluate(setup, _CHECKPOINT.value)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parser, with one line for a configuration that does not parse."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        print(f"error: {_describe(error)}", file=sys.stderr)
        sys.exit(1)


def run() -> None:
    """The console entry point."""
    # XLA's and gRPC's start-up chatter helps nobody who is not debugging them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
