"""Which samples a step sees: a function of the seed and of how many came before, so that nothing need be remembered.

The samples of a corpus are walked through epoch after epoch, each in an order of its own. Where a step begins in this
walk, and how many samples it takes, is all that decides what it sees, whatever the number of processes; so a batch may
grow, and a stopped run goes on, without a sample being lost or seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nip.data.corpus import Batch, Corpus, Masking
from nip.data.masking import IGNORED
from nip.graphs.pattern import check_int

Array = NDArray[Any]
P = ParamSpec("P")
T = TypeVar("T")

HELD_OUT_EPOCH = -1  # training counts epochs from 0: held-out samples are masked by draws of their own


@dataclass(frozen=True)
class Part:
    """A micro-batch: b samples of L tokens, m of them masked.

    Parameters
    ----------
    input_ids : int64 Tensor of shape (b, L)
        With masked and random tokens.
    positions : int64 Tensor of shape (m,)
        Of the masked tokens, in the flattened (b · L) batch.
    labels : int64 Tensor of shape (m,)
        The tokens that stood there.
    segment_ids : int32 Tensor of shape (b, L), optional
        Which document of its sample a token is of, 0 for padding; None where all is one document.
    token_type_ids : int64 Tensor of shape (b, L), optional
        Where the corpus has pairs of sentences.
    next_sentence : int64 Tensor of shape (b,), optional
    samples : int
        b, or fewer where a sample only fills up.
    tokens : int
        Padding left out.
    """

    input_ids: Tensor
    positions: Tensor
    labels: Tensor
    segment_ids: Tensor | None
    token_type_ids: Tensor | None
    next_sentence: Tensor | None
    samples: int
    tokens: int

    @property
    def asked(self) -> int:
        """Masked tokens."""
        return len(self.labels)

    def to(self, device: torch.device) -> Part:
        """The same on another device."""
        moved = {name: None if x is None else x.to(device, non_blocking=True) for name, x in self.arguments().items()}
        return Part(**moved, samples=self.samples, tokens=self.tokens)  # type: ignore[arg-type]

    def arguments(self) -> dict[str, Tensor | None]:
        """What `MaskedObjective` takes."""
        return {
            "input_ids": self.input_ids,
            "positions": self.positions,
            "labels": self.labels,
            "segment_ids": self.segment_ids,
            "token_type_ids": self.token_type_ids,
            "next_sentence": self.next_sentence,
        }


def training_parts(
    corpus: Corpus,
    position: int,
    count: int,
    micro_batch: int,
    masking: Masking,
    *,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> list[Part]:
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
    list of Part
        As many in every process, of about the same size.

    Raises
    ------
    ValueError
        If the processes cannot share the batch equally, or a number is below 1.
    """
    check_int("position", position, "training_parts", minimum=0)
    check_int("micro_batch", micro_batch, "training_parts", minimum=1)
    if count < 1 or count % processes:
        raise ValueError(f"{processes} processes cannot share a batch of {count} samples equally.")
    mine = np.arange(position + process, position + count, processes)
    parts = []
    for some in np.array_split(mine, -(-len(mine) // micro_batch)):
        epochs, places = np.divmod(some, len(corpus))
        pieces = [
            _masked(corpus, corpus.batch(places[epochs == epoch], seed=seed, epoch=epoch), masking, seed, epoch)
            for epoch in np.unique(epochs).tolist()
        ]
        parts.append(pieces[0] if len(pieces) == 1 else _joined(pieces))
    return parts


def held_out_parts(
    corpus: Corpus,
    micro_batch: int,
    masking: Masking,
    *,
    seed: int,
    process: int = 0,
    processes: int = 1,
    limit: int | None = None,
) -> Iterator[Part]:
    """This process's micro-batches of a held-out split: the same samples with the same masks at every evaluation.

    Parameters
    ----------
    limit : int, optional
        Samples, at most; they are the first of an order that the seed decides.

    Notes
    -----
    Every process gets equally many parts. Where one has nothing left, it gets a sample that asks for nothing.
    """
    check_int("micro_batch", micro_batch, "held_out_parts", minimum=1)
    n = len(corpus) if limit is None else min(limit, len(corpus))
    together = micro_batch * processes
    for begin in range(0, n, together):
        places = np.arange(begin, min(begin + together, n))
        mine = places[process::processes]
        batch = corpus.batch(mine if mine.size else places[:1], seed=seed, epoch=HELD_OUT_EPOCH)
        part = _masked(corpus, batch, masking, seed, HELD_OUT_EPOCH)
        yield part if mine.size else _silent(part)


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


def _masked(corpus: Corpus, batch: Batch, masking: Masking, seed: int, epoch: int) -> Part:
    masked = corpus.masked(batch, masking, seed=seed, epoch=epoch)
    rows, columns = np.nonzero(masked.labels != IGNORED)
    segments = batch.segment_ids
    pairs = batch.next_sentence is not None
    return Part(
        input_ids=torch.from_numpy(masked.input_ids),
        positions=torch.from_numpy(rows * batch.input_ids.shape[1] + columns),
        labels=torch.from_numpy(masked.labels[rows, columns]),
        segment_ids=None if bool((segments == 1).all()) else torch.from_numpy(segments),
        token_type_ids=torch.from_numpy(batch.token_type_ids) if pairs else None,
        next_sentence=torch.from_numpy(batch.next_sentence) if batch.next_sentence is not None else None,
        samples=len(batch.numbers),
        tokens=int((segments != 0).sum()),
    )


def _joined(parts: list[Part]) -> Part:
    """Parts of several epochs as one."""
    length = parts[0].input_ids.shape[1]
    before = np.cumsum([0, *(part.samples for part in parts)]).tolist()

    def together(name: str) -> Tensor | None:
        pieces = [getattr(part, name) for part in parts]
        return None if pieces[0] is None else torch.cat(pieces)

    segments = [torch.ones_like(part.input_ids, dtype=torch.int32) if part.segment_ids is None else part.segment_ids
                for part in parts]  # fmt: skip
    return Part(
        input_ids=torch.cat([part.input_ids for part in parts]),
        positions=torch.cat([part.positions + n * length for part, n in zip(parts, before, strict=False)]),
        labels=torch.cat([part.labels for part in parts]),
        segment_ids=None if all(part.segment_ids is None for part in parts) else torch.cat(segments),
        token_type_ids=together("token_type_ids"),
        next_sentence=together("next_sentence"),
        samples=before[-1],
        tokens=sum(part.tokens for part in parts),
    )


def _silent(part: Part) -> Part:
    """The same sample, of which nothing is asked."""
    return Part(part.input_ids, part.positions[:0], part.labels[:0], part.segment_ids, part.token_type_ids, None, 0, 0)
