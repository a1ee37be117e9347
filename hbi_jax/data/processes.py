"""A function over many files, on all cores; a file that kills its process is named and costs no other."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hbi_jax.commands.progress import Progress

# Below, starting processes takes longer than the work.
_FEW = 16


def spread(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    label: str,
    num_processes: int | None = None,
    show_progress: bool = True,
) -> list[Any]:
    """Calls a function for each job, in processes.

    Args:
      function: A function of a module, so that processes can import it. What it raises ends the work.
      jobs: The arguments of each call.
      label: What is being done, for the progress line.
      num_processes: How many processes; 1: this one. `None`: one for each core it may use, if jobs are many.
      show_progress: Whether to report progress and remaining time on stderr.

    Returns:
      The results in the order of the jobs; `None` for those whose process died.
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
        # A process that dies takes along what the others were at. Alone, only the culprit dies again.
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
    """Number, result and whether a process died, of each job; `ahead` jobs are begun at once."""
    left = iter(numbers)
    # Not forked: threads that this process may have would leave their locks behind.
    context = multiprocessing.get_context("spawn")
    waiting: dict[int, futures.Future | None] = {}
    while True:
        pool = futures.ProcessPoolExecutor(num_processes, context, initializer=_ignore_interrupts)
        try:
            while True:
                for number in itertools.islice(left, ahead - len(waiting)):
                    waiting[number] = None  # noted before it can fail
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
    """Ctrl-C reaches all processes of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
