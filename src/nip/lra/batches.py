"""The order of the examples, and how a batch is cut into padded micro-batches.

The order is a function of seed and step, so that a resumed run needs no state. A batch is sorted by length and cut into
micro-batches, each padded to its own longest example. This changes only rounding: padding is neither attended nor
counted, and the gradients of the micro-batches add up to the batch's. On ListOps it saves about half of the work.
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
from nip.data.masking import IGNORED
from nip.data.tasks.probe import unanswerable
from nip.lra.config import RunConfig
from nip.training.train_step import MicroBatch

Indices = NDArray[np.int64]
LENGTHS = 32  # different padded lengths, at most: for each the attention layout is computed once


@lru_cache(maxsize=4)
def shuffled(n: int, seed: int, purpose: str, epoch: int) -> Indices:
    """A permutation of 0 … n − 1 that is a function of the arguments alone, whatever the version of numpy.

    The numbers are sorted by raw 64-bit draws of a PCG64 generator.

    Parameters
    ----------
    n, seed : int
    purpose : str
        Names the random stream, such as ``train``.
    epoch : int

    Returns
    -------
    ndarray of shape (n,), int64
        Read-only.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    keys = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(n)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def endless_batch(n: int, batch_size: int, seed: int, purpose: str, number: int, *, drop_last: bool = True) -> Indices:
    """A batch of an endless stream over n examples, reshuffled in every epoch.

    Parameters
    ----------
    n, batch_size, seed : int
    purpose : str
        The split.
    number : int
        Of the batch, counted from 0 over all epochs.
    drop_last : bool, default=True
        Drop the last incomplete batch of an epoch, which then has ``n // batch_size`` batches. Otherwise the next epoch
        completes it, as in the original's endless loader.

    Returns
    -------
    ndarray of shape (batch_size,), int64

    Raises
    ------
    ValueError
        If incomplete batches are dropped and there are fewer examples than the batch size.

    Examples
    --------
    >>> first, second = (endless_batch(10, 7, 0, "train", number, drop_last=False) for number in range(2))
    >>> sorted([*first, *second[:3]]) == list(range(10))
    True
    """
    if not drop_last:
        epochs, places = np.divmod(number * batch_size + np.arange(batch_size), n)
        return np.concatenate(
            [shuffled(n, seed, purpose, int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )
    batches = n // batch_size
    if batches == 0:
        raise ValueError(f"A batch of {batch_size} examples cannot be drawn from the {n} of the {purpose} set.")
    epoch, place = divmod(number, batches)
    return shuffled(n, seed, purpose, epoch)[place * batch_size : (place + 1) * batch_size]


def development_indices(
    n: int, batch_size: int, seed: int, *, eval_steps: int | None, protocol: str, evaluation: int, drop_last: bool
) -> Indices:
    """The development examples of an evaluation.

    Parameters
    ----------
    n, batch_size, seed : int
    eval_steps : int or None
        Batches of an evaluation; None: all examples.
    protocol : {"clean", "original"}
        ``original``: the next `eval_steps` batches of an endless stream. ``clean``: the first ones of the split.
    evaluation : int
        Number of the evaluation, from 0.
    drop_last : bool
        As for `endless_batch`.

    Returns
    -------
    ndarray of int64
    """
    if protocol == "clean" or eval_steps is None:
        return np.arange(n if eval_steps is None else min(n, eval_steps * batch_size))
    numbers = range(evaluation * eval_steps, (evaluation + 1) * eval_steps)
    return np.concatenate(
        [endless_batch(n, batch_size, seed, "dev", number, drop_last=drop_last) for number in numbers]
    )


def indices_to_test(n: int, batch_size: int, seed: int, protocol: str) -> Indices:
    """The test examples: all, or under the original's protocol those in the complete batches of the shuffled split.

    Parameters
    ----------
    n, batch_size, seed : int
    protocol : {"clean", "original"}

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If there is no complete batch under the original's protocol.
    """
    if protocol == "clean":
        return np.arange(n)
    if n < batch_size:
        raise ValueError(f"A batch of {batch_size} examples cannot be drawn from the {n} of the test set.")
    return shuffled(n, seed, "test", 0)[: n // batch_size * batch_size]


def padded_length(longest: int, config: RunConfig) -> int:
    """Tokens to which examples of at most `longest` are padded: whole blocks, at most `LENGTHS` distinct values."""
    unit = config.block_size * -(-config.n_blocks // LENGTHS)
    return min(config.seq_len, -(-longest // unit) * unit)


def padded_micro_batches(examples: Examples, groups: Iterable[Indices], config: RunConfig) -> Iterator[MicroBatch]:
    """A micro-batch for each group of examples, padded to the group's longest.

    Parameters
    ----------
    examples : Examples
    groups : iterable of ndarray of int64
        Numbers of the examples of each micro-batch.
    config : RunConfig
        Under the original's protocol every token with id 0 counts as padding, even black pixels.

    Yields
    ------
    MicroBatch
        Inputs are ``input_ids`` and ``mask``, of shape (n, length) or (n, 2, length) for pairs; ``mask`` is True at
        tokens that are not padding. Targets are classes: of shape (n,), or, if the task has targets for tokens, that of
        ``input_ids``, with `IGNORED` at the others.

    Raises
    ------
    ValueError
        If a token id or the label of a token is out of range.
    """
    for group in groups:
        length = padded_length(int(examples.lengths[group].max()), config)
        input_ids, labels = examples.batch(group, length)
        _check_range(examples, "token id", input_ids, examples.task.vocab_size - 1)
        if examples.task.targets:
            targets = examples.batch_targets(group, length)
            _check_range(examples, "label of a token", targets, examples.task.n_classes)
            labels = np.where((targets == 0) | unanswerable(input_ids), IGNORED, targets - 1)
        mask = input_ids != 0 if config.protocol == "original" else examples.mask(group, length)
        yield MicroBatch(
            inputs={"input_ids": torch.from_numpy(input_ids), "mask": torch.from_numpy(mask)},
            targets=torch.from_numpy(labels),
            n_targets=int((labels != IGNORED).sum()),
            samples=len(group),
            tokens=n_tokens(examples, group, config),
        )


def n_tokens(examples: Examples, indices: Indices, config: RunConfig) -> int:
    """Tokens of some examples that are trained on, without padding.

    Parameters
    ----------
    examples : Examples
    indices : ndarray of shape (n,), int64
    config : RunConfig

    Returns
    -------
    int
    """
    sequences = examples.width * indices[:, None] + np.arange(examples.width)
    lengths = examples.offsets[sequences + 1] - examples.offsets[sequences]
    return int(lengths.clip(max=min(config.seq_len, config.cut or config.seq_len)).sum())


def _check_range(examples: Examples, what: str, found: NDArray[np.int64], highest: int) -> None:
    low, high = found.min(), found.max()
    if low < 0 or high > highest:
        raise ValueError(
            f"The {examples.split} set of {examples.task.name} contains the {what} {low if low < 0 else high}; "
            f"it must be in [0, {highest + 1})."
        )


def longest_first(examples: Examples, indices: Indices) -> Indices:
    """The examples in descending length."""
    return indices[np.argsort(-examples.lengths[indices], kind="stable")]


def process_share(indices: Indices, accelerator: Accelerator) -> Indices:
    """This process's share of the examples: every `num_processes`-th, so shares of sorted examples are alike."""
    return indices[accelerator.process_index :: accelerator.num_processes]


def split_by_tokens(
    examples: Examples, indices: Indices, budget: int, config: RunConfig, processes: int = 1
) -> list[Indices]:
    """Cut examples into groups that a number of processes compute at once.

    Parameters
    ----------
    examples : Examples
    indices : ndarray of shape (n,), int64
        In descending length.
    budget : int
        Tokens of a process, padding included, at most; one example is always allowed.
    config : RunConfig
    processes : int, default=1

    Returns
    -------
    list of ndarray of int64
    """
    groups, start = [], 0
    while start < len(indices):
        length = padded_length(int(examples.lengths[indices[start]]), config)
        end = start + processes * max(1, budget // (length * examples.width))
        groups.append(indices[start:end])
        start = end
    return groups
