"""Which samples a step sees: a function of the seed and of how many came before, so that nothing need be remembered.

The samples of a corpus are walked through epoch after epoch, each in an order of its own. Where a step begins in this
walk, and how many samples it takes, is all that decides what it sees, whatever the number of processes; so a batch may
grow, and a stopped run goes on, without a sample being lost or seen twice.
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

HELD_OUT_EPOCH = -1  # training counts epochs from 0: held-out samples are masked by draws of their own


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
        Samples of the walk that came before, those of other processes included.
    count : int
        Samples of the global batch; it may go over into the next epoch.
    micro_batch : int
        Samples that are computed at once, at most.
    masking : Masking
    seed : int
    process, processes : int
        Process r takes every `processes`-th sample, from the r-th on.

    Returns
    -------
    list of MicroBatch
        The same number in every process, of about the same size. Inputs are those of `MaskedObjective`: ``input_ids``
        of shape (b, L), ``positions`` of the m masked tokens in the flattened batch, ``segment_ids`` (None where all
        is one document), ``token_type_ids`` and ``next_sentence``; targets are the m tokens that were masked.

    Raises
    ------
    ValueError
        If the processes cannot share the batch equally, or a number is below 1.
    """
    check_int("position", position, "training_micro_batches", minimum=0)
    check_int("micro_batch", micro_batch, "training_micro_batches", minimum=1)
    if count < 1 or count % processes:
        raise ValueError(f"{processes} processes cannot share a batch of {count} samples equally.")
    mine = np.arange(position + process, position + count, processes)
    found = []
    for some in np.array_split(mine, -(-len(mine) // micro_batch)):
        epochs, places = np.divmod(some, len(corpus))
        pieces = [
            _masked(corpus, corpus.batch(places[epochs == epoch], seed=seed, epoch=epoch), masking, seed, epoch)
            for epoch in np.unique(epochs).tolist()
        ]
        found.append(pieces[0] if len(pieces) == 1 else _joined(pieces))
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
    limit : int, optional
        Samples, at most; they are the first of an order that the seed decides.

    Notes
    -----
    Every process gets equally many parts. Where one has nothing left, it gets a sample that asks for nothing.
    """
    check_int("micro_batch", micro_batch, "held_out_micro_batches", minimum=1)
    n = len(corpus) if limit is None else min(limit, len(corpus))
    together = micro_batch * processes
    for begin in range(0, n, together):
        places = np.arange(begin, min(begin + together, n))
        mine = places[process::processes]
        batch = corpus.batch(mine if mine.size else places[:1], seed=seed, epoch=HELD_OUT_EPOCH)
        made = _masked(corpus, batch, masking, seed, HELD_OUT_EPOCH)
        yield made if mine.size else _silent(made)


class Lookahead(Generic[P, T]):
    """Calls a function one call ahead, in a thread: while one batch is computed on, the next is read and masked.

    Parameters
    ----------
    make : callable
        Whose result its arguments alone decide.

    Examples
    --------
    >>> squares = Lookahead(lambda x: x * x)
    >>> squares.ask(3)
    >>> squares.get(3), squares.get(4)
    (9, 16)
    >>> squares.close()
    """

    def __init__(self, make: Callable[P, T]) -> None:
        self.make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._answer: Future[T] | None = None

    def ask(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin a call whose result will be wanted soon."""
        self._asked, self._answer = (args, kwargs), self._pool.submit(self.make, *args, **kwargs)

    def get(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result, from the thread if it was asked for."""
        answer, asked = self._answer, self._asked
        self._asked = self._answer = None
        if answer is not None and asked == (args, kwargs):
            return answer.result()
        if answer is not None and not answer.cancel():
            wait([answer])  # two calls at once would disturb each other: a corpus keeps its files open
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


def _joined(pieces: list[MicroBatch]) -> MicroBatch:
    """Micro-batches of several epochs as one."""
    ids, positions, segments = (
        [each.inputs[name] for each in pieces] for name in ("input_ids", "positions", "segment_ids")
    )
    length = ids[0].shape[1]
    before = np.cumsum([0, *(each.samples for each in pieces)]).tolist()

    def together(name: str) -> Tensor | None:
        tensors = [each.inputs[name] for each in pieces]
        return None if tensors[0] is None else torch.cat(tensors)

    full = [torch.ones_like(x, dtype=torch.int32) if s is None else s for x, s in zip(ids, segments, strict=True)]
    return MicroBatch(
        inputs={
            "input_ids": torch.cat(ids),
            "positions": torch.cat([each + n * length for each, n in zip(positions, before, strict=False)]),
            "segment_ids": None if all(each is None for each in segments) else torch.cat(full),
            "token_type_ids": together("token_type_ids"),
            "next_sentence": together("next_sentence"),
        },
        targets=torch.cat([each.targets for each in pieces]),
        n_targets=sum(each.n_targets for each in pieces),
        samples=before[-1],
        tokens=sum(each.tokens for each in pieces),
    )


def _silent(micro_batch: MicroBatch) -> MicroBatch:
    """The same samples, of which nothing is asked."""
    positions = micro_batch.inputs["positions"]
    inputs = {**micro_batch.inputs, "positions": positions[:0], "next_sentence": None}
    return MicroBatch(inputs, micro_batch.targets[:0], n_targets=0, samples=0, tokens=0)
