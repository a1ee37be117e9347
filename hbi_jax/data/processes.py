"""Maps a function over many files on all cores; a file that kills its process does not affect the others."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hbi_jax.commands.progress import Progress

# With fewer jobs, starting the processes takes longer than the work.
_FEW = 16


def spread(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    label: str,
    num_processes: int | None = None,
    show_progress: bool = True,
) -> list[Any]:
    """Calls a function for each job in worker processes and returns the results.

    Args:
      function: A module-level function, so that worker processes can import it. An exception it raises ends the work.
      jobs: The arguments of each call.
      label: Name of the work in the progress line.
      num_processes: Number of processes; 1 runs the jobs in this process. `None` uses one per available core if there
        are many jobs.
      show_progress: Whether to report progress and remaining time on stderr.

    Returns:
      The results in the order of the jobs; `None` for jobs whose process died.
    """
    if num_processes is None:
        num_processes = len(os.sched_getaffinity(0)) if len(jobs) >= _FEW else 1
    results: list[Any] = [None] * len(jobs)
    with Progress(len(jobs), label, shown=show_progress) as progress:
        if num_processes == 1:
            for number, job in enumerate(jobs):
                results[number] = function(*job)
                progress.update()
            return results
        suspects = []
        for number, result, died in _work(function, jobs, range(len(jobs)), num_processes, 2 * num_processes):
            if died:
                suspects.append(number)
                continue
            results[number] = result
            progress.update()
        # A dying process breaks the whole pool. Run the affected jobs one by one, so that only the culprit dies again.
        for number, result, _ in _work(function, jobs, suspects, 1, 1):
            results[number] = result
            progress.update()
    return results


def _work(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    numbers: Iterable[int],
    num_processes: int,
    ahead: int,
) -> Iterator[tuple[int, Any, bool]]:
    """Yields the number and result of each job and whether its process died; at most `ahead` jobs are in flight."""
    left = iter(numbers)
    # Do not fork: locks held by threads of this process would stay locked in the child.
    context = multiprocessing.get_context("spawn")
    waiting: dict[int, futures.Future | None] = {}
    while True:
        pool = futures.ProcessPoolExecutor(num_processes, context, initializer=_ignore_interrupts)
        try:
            while True:
                for number in itertools.islice(left, ahead - len(waiting)):
                    waiting[number] = None  # recorded before the submission can fail
                    waiting[number] = pool.submit(function, *jobs[number])
                if not waiting:
                    return
                futures.wait(waiting.values(), return_when=futures.FIRST_COMPLETED)
                for number in [number for number, future in waiting.items() if future.done()]:
                    result = waiting[number].result()
                    del waiting[number]
                    yield number, result, False
        except BrokenProcessPool:
            yield from ((number, None, True) for number in waiting)
            waiting = {}
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ignores Ctrl-C in a worker: it reaches all processes of a terminal, and the main one stops the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
