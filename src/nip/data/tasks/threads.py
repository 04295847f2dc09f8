"""Threads that compute a few results ahead; compiled loops release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def map_ahead(function: Callable[[A], R], arguments: Iterable[A], workers: int) -> Generator[R]:
    """The results of a function, in the order of its arguments, computed up to ``2 * workers`` ahead.

    Parameters
    ----------
    function : callable
    arguments : iterable
        May be infinite.
    workers : int
        Number of threads.

    Yields
    ------
    object

    Examples
    --------
    >>> list(map_ahead(str, range(5), workers=2))
    ['0', '1', '2', '3', '4']
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[R]] = deque()
        try:
            for argument in arguments:
                ahead.append(pool.submit(function, argument))
                if len(ahead) == 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
