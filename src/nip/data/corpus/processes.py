"""Run the tasks of a step, in this process or in several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from nip.runs.workers import end_with

Progress = Callable[[str, int, int], None]
Run = Callable[[Callable[..., Any], list[tuple[Any, ...]]], list[Any]]


def check_jobs(jobs: int) -> None:
    """Raise ValueError if a number of processes is 0."""
    if jobs == 0:
        raise ValueError("--jobs must be an integer of at least 1, or −1 for one process per core. Got 0 instead.")


def runner(jobs: int) -> Callable[[str, Progress | None], Run]:
    """A function that calls a function with many tuples of arguments and returns the results in order.

    Parameters
    ----------
    jobs : int
        Number of processes; 1 is this process, −1 one per processor.

    Returns
    -------
    callable
        ``runner(jobs)(step, progress)(function, arguments)``. It calls ``progress(step, done, total)`` at the start and
        after each result, and raises ChildProcessError if a worker is killed.
    """

    def named(step: str, progress: Progress | None) -> Run:
        def run(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
            results: list[Any] = []
            if progress is not None:
                progress(step, 0, len(arguments))
            for result in _results(function, arguments, jobs):
                results.append(result)
                if progress is not None:
                    progress(step, len(results), len(arguments))
            return results

        return run

    return named


def _results(function: Callable[..., Any], arguments: list[tuple[Any, ...]], jobs: int) -> Iterator[Any]:
    if jobs == 1 or len(arguments) < 2:
        for each in arguments:
            yield function(*each)
        return
    try:
        import joblib
        from joblib.externals.loky.process_executor import BrokenProcessPool
    except ImportError as error:
        raise ImportError("Several processes need joblib: pip install 'nip[pretrain]', or use --jobs 1.") from error
    calls = (joblib.delayed(_single_threaded)(function, each) for each in arguments)
    try:
        yield from joblib.Parallel(
            n_jobs=jobs, return_as="generator", batch_size=1, initializer=end_with, initargs=(os.getpid(),)
        )(calls)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "A worker process was killed, probably because memory was full. The same command resumes, "
            "if necessary with fewer --jobs."
        ) from error


def _single_threaded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call the function in a worker; compiled libraries start no threads there, for all processors have a worker."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    return function(*arguments)
