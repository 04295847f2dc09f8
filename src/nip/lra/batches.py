"""Which examples a step reads, and how they are padded and cut into micro-batches.

The order follows from seed and step alone, so that a resumed run needs no state. A batch is sorted by length and
computed in micro-batches, each padded to its own longest example only. That changes nothing but the rounding: padding
is never attended and never counted, and the gradients of the micro-batches add up to the batch's. On ListOps it avoids
about half of the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from nip.data import Examples
from nip.data.tasks.probe import unanswerable
from nip.lra.config import RunConfig
from nip.training.train_step import MicroBatch

Indices = NDArray[np.int64]
IGNORED = -100  # the target where nothing is asked; torch's cross-entropy leaves it out
LENGTHS = 32  # different padded lengths at most, and so corners of the pattern to lay out


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


def padded_length(longest: int, config: RunConfig) -> int:
    """Tokens to pad a part to whose longest example has `longest`: whole blocks, at most `LENGTHS` different values."""
    unit = config.block_size * -(-config.n_blocks // LENGTHS)
    return min(config.seq_len, -(-longest // unit) * unit)


def padded_micro_batches(examples: Examples, parts: Iterable[Indices], config: RunConfig) -> Iterator[MicroBatch]:
    """A micro-batch for each part of the examples, padded to its own longest.

    Inputs are ``input_ids`` and ``mask``, of shape (n, length) or (n, 2, length) for pairs; ``mask`` is True at the
    tokens that are attended and counted. Targets are class numbers of shape (n,), or that of ``input_ids`` where every
    token has its own, with `IGNORED` where nothing is asked. Under the original's protocol every token with id 0 counts
    as padding, even the black of a picture.

    Raises
    ------
    ValueError
        If a token id is not in the task's vocabulary, or the label of a token is no class.
    """
    for part in parts:
        length = padded_length(int(examples.lengths[part].max()), config)
        input_ids, labels = examples.batch(part, length)
        _check(examples, "token id", input_ids, examples.task.vocab_size - 1)
        if examples.task.targets:
            labels = _targets(examples, part, input_ids)
        mask = input_ids != 0 if config.protocol == "original" else examples.mask(part, length)
        yield MicroBatch(
            inputs={"input_ids": torch.from_numpy(input_ids), "mask": torch.from_numpy(mask)},
            targets=torch.from_numpy(labels),
            n_targets=int((labels != IGNORED).sum()),
            samples=len(part),
            tokens=n_tokens(examples, part, config),
        )


def n_tokens(examples: Examples, indices: Indices, config: RunConfig) -> int:
    """Tokens of the examples `indices` that are trained on, without padding."""
    sequences = examples.width * indices[:, None] + np.arange(examples.width)
    lengths = examples.offsets[sequences + 1] - examples.offsets[sequences]
    return int(lengths.clip(max=min(config.seq_len, config.cut or config.seq_len)).sum())


def _targets(examples: Examples, part: Indices, input_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    targets = examples.batch_targets(part, input_ids.shape[1])
    _check(examples, "label of a token", targets, examples.task.n_classes)
    return np.where((targets == 0) | unanswerable(input_ids), IGNORED, targets - 1)


def _check(examples: Examples, what: str, found: NDArray[np.int64], highest: int) -> None:
    low, high = found.min(), found.max()
    if low < 0 or high > highest:
        raise ValueError(
            f"The {examples.split} set of {examples.task.name} holds the {what} {low if low < 0 else high}; "
            f"it must be in [0, {highest + 1})."
        )


def equal_parts(indices: Indices, parts: int) -> list[Indices]:
    """The examples in at most that number of parts of about the same size, in their order."""
    return np.array_split(indices, min(parts, len(indices)))


def token_parts(
    examples: Examples, indices: Indices, budget: int, config: RunConfig, processes: int = 1
) -> list[Indices]:
    """The examples, in descending length already, in parts of at most `budget` tokens (or one example) a process."""
    parts, start = [], 0
    while start < len(indices):
        length = padded_length(int(examples.lengths[indices[start]]), config)
        end = start + processes * max(1, budget // (length * examples.width))
        parts.append(indices[start:end])
        start = end
    return parts


def longest_first(examples: Examples, indices: Indices) -> Indices:
    """The examples in descending length."""
    return indices[np.argsort(-examples.lengths[indices], kind="stable")]


def own_share(indices: Indices, accelerator: Accelerator) -> Indices:
    """This process's share of the examples; where they are sorted by length, its lengths are like the others'."""
    return indices[accelerator.process_index :: accelerator.num_processes]
