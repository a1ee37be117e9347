"""Several runs, one after the other, in one process of a job: python -m tests.faults.session PLAN --coordinator=...

The plan is a JSON file: a list of runs with their work folder, name of configuration and fields. Starting JAX and
joining takes longer than these runs, so tests share one start.
"""

import argparse
import importlib
import json
import pathlib

from tests.faults.jobs import TINY


def config_of(name: str, world: str, changes: dict[str, object]):
    """Returns the smallest configuration of a task on a rendered world."""
    from hbi_jax.config import parse

    config = importlib.import_module(f"configs.{name}").get_config()
    fields = TINY | changes | {"data.annotations": world, "data.videos": f"{world}/videos"}
    for field, value in fields.items():
        *sections, last = field.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = _tuples(value)
    return parse(config)


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def work(run: dict[str, object]) -> None:
    """Trains and evaluates."""
    from hbi_jax import experiment

    config = config_of(run["config"], run["world"], run["fields"])
    setup = experiment.prepare(config, run["workdir"])
    experiment.train(setup)
    experiment.evaluate(setup)


def main() -> None:
    """Joins the job, if this is a process of one, and works through the plan."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=pathlib.Path)
    parser.add_argument("--multihost", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    flags = parser.parse_args()

    from hbi_jax.commands.cli import start_logging
    from hbi_jax.parallel import job

    start_logging(False)
    if flags.multihost:
        job.join(flags.coordinator, flags.num_processes, flags.process_id)

    def all_runs() -> None:
        for run in json.loads(flags.plan.read_text()):
            work(run)

    job.guarded(all_runs)


if __name__ == "__main__":
    main()
