"""The parts of a step, done one after the other or by several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[str, int, int], None]
Run = Callable[[Callable[..., Any], list[tuple[Any, ...]]], list[Any]]


def runner(jobs: int) -> Callable[[str, Progress | None], Run]:
    """A function that calls a function with many tuples of arguments and lists the results in order.

    Parameters
    ----------
    jobs : int
        Processes; 1 is this one, −1 one a processor.

    Returns
    -------
    callable
        ``runner(jobs)(step, progress)(function, arguments)``; at the start and after each result
        ``progress(step, done, all)`` is called. Where a process is killed, it raises a ChildProcessError.
    """

    def named(step: str, progress: Progress | None) -> Run:
        def run(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
            found: list[Any] = []
            if progress is not None:
                progress(step, 0, len(arguments))
            for result in _results(function, arguments, jobs):
                found.append(result)
                if progress is not None:
                    progress(step, len(found), len(arguments))
            return found

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
    calls = (joblib.delayed(_alone)(function, each) for each in arguments)
    try:
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=1)(calls)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "A worker process was killed, mostly for want of memory. What is finished stays: the same command goes on, "
            "with fewer --jobs if need be."
        ) from error


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _keep_to_one_thread()
    return function(*arguments)


def _keep_to_one_thread() -> None:
    """Where several processes share the processors: let compiled libraries start no threads of their own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
