"""Which examples a step sees: a function of seed and step alone, so that a resumed run needs no memory of the order."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@lru_cache(maxsize=4)
def shuffled(n: int, seed: int, purpose: str, epoch: int) -> Indices:
    """The numbers 0 … n − 1 in an order that depends on the other arguments only: on no library's version, either.

    They are sorted by raw 64-bit draws of a PCG64 generator of their own.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    keys = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(n)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def endless_batch(n: int, batch_size: int, seed: int, purpose: str, number: int) -> Indices:
    """Batch `number` of an endless walk through n examples that is reshuffled at every pass; ndarray (batch_size,).

    A pass has ``n // batch_size`` batches: the last incomplete one is dropped.

    Raises
    ------
    ValueError
        If there are fewer examples than a batch takes.
    """
    per_pass = n // batch_size
    if per_pass == 0:
        raise ValueError(f"A batch of {batch_size} examples cannot be drawn from the {n} of the {purpose} set.")
    epoch, place = divmod(number, per_pass)
    return shuffled(n, seed, purpose, epoch)[place * batch_size : (place + 1) * batch_size]


def development_indices(
    n: int, batch_size: int, seed: int, *, eval_steps: int | None, protocol: str, evaluation: int
) -> Indices:
    """The development examples of the evaluation of that number, counted from 0.

    ``original``: the next `eval_steps` batches of an endless walk. ``clean``: all, or the first `eval_steps` batches.
    """
    if protocol == "clean" or eval_steps is None:
        return np.arange(n if eval_steps is None else min(n, eval_steps * batch_size))
    numbers = range(evaluation * eval_steps, (evaluation + 1) * eval_steps)
    return np.concatenate([endless_batch(n, batch_size, seed, "dev", number) for number in numbers])


def indices_to_test(n: int, batch_size: int, seed: int, protocol: str) -> Indices:
    """The test examples that count: all, or under the original's protocol a shuffled set's complete batches."""
    if protocol == "clean":
        return np.arange(n)
    if n < batch_size:
        raise ValueError(f"A batch of {batch_size} examples cannot be drawn from the {n} of the test set.")
    return shuffled(n, seed, "test", 0)[: n // batch_size * batch_size]
