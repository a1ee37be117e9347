"""Which share of the work this process does, of several processes that share it."""

import os
from collections.abc import Mapping
from typing import NamedTuple

# Who starts the processes, and where it tells each its number and how many there are. SLURM's second variable is set
# only in tasks that `srun` started: the script of a job is one process, however many tasks the job has.
_STARTERS = {
    "SLURM": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    "JAX": ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
}


class Share(NamedTuple):
    """The share of a process: it makes the shards s with s mod `workers` = `worker`.

    Attributes:
      worker: The number of the process, from 0.
      workers: How many processes there are.
      source: Who said so.
    """

    worker: int
    workers: int
    source: str


def share(worker: int | None, workers: int | None, environment: Mapping[str, str] | None = None) -> Share:
    """Returns the share that the options give, or else SLURM, Kubernetes or JAX; all of the work if nobody does.

    Args:
      worker, workers: The options; None where one is absent.
      environment: The environment variables; None: those of this process.

    Raises:
      ValueError: If the number of processes is not known, or the share is not one of them.
    """
    environment = os.environ if environment is None else environment
    source = "options"
    if worker is None:
        found = [
            (name, int(environment[number]), environment.get(count))
            for name, (number, count) in _STARTERS.items()
            if environment.get(number, "").isdecimal() and (name == "Kubernetes" or environment.get(count))
        ]
        if workers is not None and not found:
            raise ValueError(f"workers={workers} without worker: wanted the number of this one too; add --worker=0")
        if not found:
            return Share(0, 1, "default")
        source, worker, count = found[0]
        if workers is None:
            if not (count or "").isdecimal():
                raise ValueError(
                    "JOB_COMPLETION_INDEX is set, but not how many workers there are: add --workers=N, the completions "
                    "of the job"
                )
            workers = int(count)
    if workers is None:
        raise ValueError(f"worker={worker} without workers: wanted how many there are; add --workers=N")
    if not 0 <= worker < workers:
        raise ValueError(f"worker={worker}: wanted 0 to {workers - 1} of workers={workers}; number them from 0")
    return Share(worker, workers, source)
