"""Trains and evaluates a video-text model.

  python -m hbi_jax.main --config=quickstart --workdir=runs/quickstart
  python -m hbi_jax.main --config=quickstart --workdir=runs/quickstart --mode=evaluate

--config takes the name of a configuration that is installed with the library, or a file. Any field can be set on the
command line, for instance --config.train.batch_size=32. --explain=train.batch_size explains a field, --explain=all
explains every field. The same command resumes an interrupted run.
"""

import re
import sys

from absl import flags

from hbi_jax import fields
from hbi_jax.commands import cli
from hbi_jax.config import Config, parse

_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: train or resume training, then evaluate. evaluate: only evaluate.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Another work folder (its best checkpoint) or one of its steps, such as runs/quickstart/checkpoints/800. "
    "--mode=evaluate evaluates it, or a folder of converted weights; default: the best checkpoint of --workdir. "
    "--mode=train starts a new --workdir from it, with the state of its optimizer.",
)
_EXPLAIN = flags.DEFINE_string(
    "explain",
    None,
    "Print the value, meaning, default and range of a field, such as loss.teacher, or of a section, such as loss, or "
    "of all fields (all), and exit.",
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "Join the other processes of one job. On Cloud TPU they are found automatically; elsewhere set --coordinator, "
    "--num_processes and --process_id.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", lower_bound=0)

# A name or number, or an IPv6 address in brackets.
_ADDRESS = re.compile(r"([\w.-]+|\[[\w.:%]+\]):(?P<port>[0-9]{1,5})")


def _main() -> int | None:
    """Runs the job that the flags describe."""
    if _EXPLAIN.value is not None:
        config = Config() if cli.CONFIG.value is None else parse(cli.CONFIG.value)
        print(fields.explain(config, "" if _EXPLAIN.value == "all" else _EXPLAIN.value.removeprefix("config.")))
        return None
    cli.wanted((cli.CONFIG, "quickstart"), (cli.WORKDIR, "runs/quickstart"))
    config = parse(cli.CONFIG.value)
    _check_processes()
    if not _MULTIHOST.value:
        return _work(config)

    from hbi_jax.parallel import job

    try:
        job.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except ValueError as error:
        cli.fail(
            f"--multihost: {str(error).rstrip('.')}, and nothing here tells it by itself; give --coordinator, "
            "--num_processes and --process_id"
        )
    return job.guarded(lambda: _work(config), show_traceback=cli.TRACEBACK.value)


def _work(config: Config) -> int | None:
    """Trains and evaluates, or only evaluates; returns the exit code."""
    from hbi_jax import experiment
    from hbi_jax.train.preemption import PreemptedError, stop_on_sigterm

    training = _MODE.value == "train"
    with experiment.own(cli.WORKDIR.value):
        setup = experiment.prepare(config, cli.WORKDIR.value)
        try:
            if training:
                experiment.train(setup, _CHECKPOINT.value)
        except PreemptedError as stop:
            print(stop, file=sys.stderr)
            return stop.exit_code
        with stop_on_sigterm("the evaluation was stopped; run the same command again to repeat it"):
            experiment.evaluate(setup, None if training else _CHECKPOINT.value)
    return None


def _check_processes() -> None:
    """Ends the program where the flags that say which process of which job this is cannot be right."""
    holders = (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
    given = [f"--{holder.name}" for holder in holders if holder.value is not None]
    if given and not _MULTIHOST.value:
        cli.fail(
            f"{' and '.join(given)} given without --multihost: this process would train alone; add --multihost, or "
            f"leave {'them' if given[1:] else 'it'} out"
        )
    if _COORDINATOR.value is not None:
        found = _ADDRESS.fullmatch(_COORDINATOR.value)
        if not (found and 1 <= int(found["port"]) <= 65535):
            cli.fail(
                f"--coordinator={_COORDINATOR.value}: wanted HOST:PORT of process 0 with a port in 1..65535; write for "
                "instance --coordinator=10.0.0.1:1234"
            )
    if None not in (_NUM_PROCESSES.value, _PROCESS_ID.value) and _PROCESS_ID.value >= _NUM_PROCESSES.value:
        cli.fail(
            f"--process_id={_PROCESS_ID.value}: wanted 0 to {_NUM_PROCESSES.value - 1} where "
            f"--num_processes={_NUM_PROCESSES.value}; number the processes from 0"
        )


def run() -> None:
    """The console entry point."""
    cli.run(_main, __name__, __doc__)


if __name__ == "__main__":
    run()
