"""The samples of each step, as masked micro-batches: a function of the seed and of the samples before.

The samples of a corpus are read epoch after epoch, each in its own order. The position of a step in this stream and its
batch size decide its samples, for any number of processes. So the batch size may grow and a stopped run may resume
without losing or repeating a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nip.data.corpus import Batch, Corpus, Masking
from nip.data.masking import IGNORED
from nip.graphs.pattern import check_int
from nip.training.train_step import MicroBatch

Array = NDArray[Any]
P = ParamSpec("P")
T = TypeVar("T")

HELD_OUT_EPOCH = -1  # an epoch that training does not have, for the masks of held-out samples


def training_micro_batches(
    corpus: Corpus,
    position: int,
    count: int,
    micro_batch: int,
    masking: Masking,
    *,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> list[MicroBatch]:
    """This process's micro-batches of a global batch.

    Parameters
    ----------
    corpus : Corpus
    position : int
        Samples before this batch, over all epochs and processes.
    count : int
        Samples of the global batch, which may cross into the next epoch.
    micro_batch : int
        Samples of a micro-batch, at most.
    masking : Masking
    seed : int
    process, processes : int
        Process r takes every `processes`-th sample from the r-th on.

    Returns
    -------
    list of MicroBatch
        The same number in every process, of similar sizes. Inputs are those of `MaskedLMObjective`: ``input_ids`` of
        shape (b, L), ``positions`` of the m masked tokens in the flattened batch, ``segment_ids`` (None if every sample
        is one document), ``token_type_ids`` and ``next_sentence``; targets are the original ids of the m tokens.

    Raises
    ------
    ValueError
        If the batch is not a multiple of the processes, or a number is out of range.
    """
    position = check_int("position", position, "training_micro_batches", minimum=0)
    micro_batch = check_int("micro_batch", micro_batch, "training_micro_batches", minimum=1)
    if count < 1 or count % processes:
        raise ValueError(f"{processes} processes cannot share a batch of {count} samples equally.")
    own = np.arange(position + process, position + count, processes)
    found = []
    for samples in np.array_split(own, -(-len(own) // micro_batch)):
        epochs, places = np.divmod(samples, len(corpus))
        by_epoch = [
            _masked(corpus, corpus.batch(places[epochs == epoch], seed=seed, epoch=epoch), masking, seed, epoch)
            for epoch in np.unique(epochs).tolist()
        ]
        found.append(by_epoch[0] if len(by_epoch) == 1 else _concatenated(by_epoch))
    return found


def held_out_micro_batches(
    corpus: Corpus,
    micro_batch: int,
    masking: Masking,
    *,
    seed: int,
    process: int = 0,
    processes: int = 1,
    limit: int | None = None,
) -> Iterator[MicroBatch]:
    """This process's micro-batches of a held-out split: the same samples with the same masks at every evaluation.

    Parameters
    ----------
    corpus : Corpus
        The held-out split.
    micro_batch : int
        Samples of a micro-batch, at most.
    masking : Masking
    seed : int
        Decides masks and order.
    process, processes : int
    limit : int, optional
        Samples, at most.

    Yields
    ------
    MicroBatch
        The same number in every process; one without samples left gets a sample without targets.
    """
    micro_batch = check_int("micro_batch", micro_batch, "held_out_micro_batches", minimum=1)
    n = len(corpus) if limit is None else min(limit, len(corpus))
    step = micro_batch * processes
    for begin in range(0, n, step):
        places = np.arange(begin, min(begin + step, n))
        own = places[process::processes]
        batch = corpus.batch(own if own.size else places[:1], seed=seed, epoch=HELD_OUT_EPOCH)
        masked = _masked(corpus, batch, masking, seed, HELD_OUT_EPOCH)
        yield masked if own.size else _without_targets(masked)


class Lookahead(Generic[P, T]):
    """Call a function ahead in a thread: while the device computes a batch, the next one is read and masked.

    Parameters
    ----------
    make : callable
        A pure function.

    Examples
    --------
    >>> squares = Lookahead(lambda x: x * x)
    >>> squares.start(3)
    >>> squares.get(3), squares.get(4)
    (9, 16)
    >>> squares.close()
    """

    def __init__(self, make: Callable[P, T]) -> None:
        self.make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._future: Future[T] | None = None

    def start(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Start a call whose result `get` will want."""
        self._arguments, self._future = (args, kwargs), self._pool.submit(self.make, *args, **kwargs)

    def get(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call, from the thread if the call was started."""
        future, started = self._future, self._arguments
        self._arguments = self._future = None
        if future is not None and started == (args, kwargs):
            return future.result()
        if future is not None and not future.cancel():
            wait([future])  # a corpus, which keeps its files open, cannot be read by two threads at once
        return self.make(*args, **kwargs)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)


def _masked(corpus: Corpus, batch: Batch, masking: Masking, seed: int, epoch: int) -> MicroBatch:
    masked = corpus.masked(batch, masking, seed=seed, epoch=epoch)
    rows, columns = np.nonzero(masked.labels != IGNORED)
    segments = batch.segment_ids
    pairs = batch.next_sentence is not None
    return MicroBatch(
        inputs={
            "input_ids": torch.from_numpy(masked.input_ids),
            "positions": torch.from_numpy(rows * batch.input_ids.shape[1] + columns),
            "segment_ids": None if bool((segments == 1).all()) else torch.from_numpy(segments),
            "token_type_ids": torch.from_numpy(batch.token_type_ids) if pairs else None,
            "next_sentence": torch.from_numpy(batch.next_sentence) if batch.next_sentence is not None else None,
        },
        targets=torch.from_numpy(masked.labels[rows, columns]),
        n_targets=len(rows),
        samples=len(batch.numbers),
        tokens=int((segments != 0).sum()),
    )


def _concatenated(micro_batches: list[MicroBatch]) -> MicroBatch:
    """Micro-batches of several epochs as one."""
    ids, positions, segments = (
        [each.inputs[name] for each in micro_batches] for name in ("input_ids", "positions", "segment_ids")
    )
    length = ids[0].shape[1]
    before = np.cumsum([0, *(each.samples for each in micro_batches)]).tolist()

    def concatenated(name: str) -> Tensor | None:
        tensors = [each.inputs[name] for each in micro_batches]
        return None if tensors[0] is None else torch.cat(tensors)

    full = [torch.ones_like(x, dtype=torch.int32) if s is None else s for x, s in zip(ids, segments, strict=True)]
    return MicroBatch(
        inputs={
            "input_ids": torch.cat(ids),
            "positions": torch.cat([each + n * length for each, n in zip(positions, before, strict=False)]),
            "segment_ids": None if all(each is None for each in segments) else torch.cat(full),
            "token_type_ids": concatenated("token_type_ids"),
            "next_sentence": concatenated("next_sentence"),
        },
        targets=torch.cat([each.targets for each in micro_batches]),
        n_targets=sum(each.n_targets for each in micro_batches),
        samples=before[-1],
        tokens=sum(each.tokens for each in micro_batches),
    )


def _without_targets(micro_batch: MicroBatch) -> MicroBatch:
    """The same samples, which do not count."""
    positions = micro_batch.inputs["positions"]
    inputs = {**micro_batch.inputs, "positions": positions[:0], "next_sentence": None}
    return MicroBatch(inputs, micro_batch.targets[:0], n_targets=0, samples=0, tokens=0)
