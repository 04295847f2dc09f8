"""One split of a task: labelled token sequences in flat arrays, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.registry import Task
from nip.graphs.pattern import check_int

CHUNK = 1 << 22  # tokens per chunk


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled token sequences of one split.

    Parameters
    ----------
    task : Task
    split : str
        ``train``, ``dev`` or ``test``.
    tokens : ndarray of shape (n_tokens,)
        The token ids of all examples, one after the other, without padding. Of a memory-mapped array, `batch` and
        `sequence` read only the examples asked for.
    offsets : ndarray of shape (n_sequences + 1,)
        Sequence i is ``tokens[offsets[i]:offsets[i + 1]]``. Example i is sequence i, or in a task of pairs the
        sequences 2 i and 2 i + 1.
    labels : ndarray of shape (n_examples,)
        The class of each example.
    targets : ndarray of shape (n_tokens,), optional
        For tasks with labels of tokens: 0 for none, else the class + 1.
    foreign : bool, default=False
        Whether the meaning of the token ids is unknown, as in the original's pickles.
    kept : int, optional
        Maximum number of tokens of a sequence: see `cut`.

    Examples
    --------
    >>> from nip.data.tasks.registry import TASKS
    >>> two = Examples(TASKS["listops"], "dev", np.array([7, 2, 8, 9, 5]), np.array([0, 1, 5]), np.array([1, 3]))
    >>> input_ids, labels = two.batch([1, 0], length=6)
    >>> input_ids.tolist(), labels.tolist()
    ([[2, 8, 9, 5, 0, 0], [7, 0, 0, 0, 0, 0]], [3, 1])
    >>> two.mask([1, 0], length=6).sum(axis=1).tolist()
    [4, 1]
    """

    task: Task
    split: str
    tokens: NDArray[np.integer]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    targets: NDArray[np.integer] | None = None
    foreign: bool = False
    kept: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "offsets", "labels", "targets"):
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, read_only(array)[0])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """Sequences per example: 1, or 2 in a task of pairs."""
        return 2 if self.task.pair else 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, of a pair those of its longer sequence; ndarray of shape (n_examples,)."""
        lengths = np.diff(self.offsets)
        if self.kept is not None:
            lengths = np.minimum(lengths, self.kept)
        return lengths.reshape(-1, 2).max(axis=1) if self.task.pair else lengths

    def cut(self, length: int) -> Examples:
        """The same examples, sequences truncated to `length` tokens; the original keeps 1,000 bytes of a text.

        They can then be padded to more: ``examples.cut(1000).batch(indices, 1024)``.
        """
        length = check_int("length", length, "cut", minimum=1)
        return replace(self, kept=length if self.kept is None else min(length, self.kept))

    def sequence(self, index: int, part: int = 0) -> NDArray[np.integer]:
        """The token ids of an example, of a pair those of its sequence `part`, without padding; shape (length,)."""
        (checked,) = self._checked([index])
        if part not in range(self.width):
            raise ValueError(f"An example of {self.task.name} has {self.width} sequences, numbered from 0. Got {part}.")
        start, stop = self._bounds(self.width * int(checked) + part)
        return self.tokens[start:stop]

    def batch(
        self, indices: Sequence[int] | NDArray[np.integer], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Several examples, truncated or padded on the right with 0 to `length` tokens, as in Long Range Arena.

        Parameters
        ----------
        indices : sequence of int
            In [0, n_examples); may repeat.
        length : int
            Tokens per row, at least 1.

        Returns
        -------
        input_ids : ndarray of shape (batch, length), or (batch, 2, length) in a task of pairs; int64
        labels : ndarray of shape (batch,), int64

        Raises
        ------
        ValueError
            If an index is out of range.
        """
        chosen = self._chosen(indices, length, "batch")
        return self._padded(self.tokens, chosen, length), self.labels[chosen]

    def mask(self, indices: Sequence[int] | NDArray[np.integer], length: int) -> NDArray[np.bool_]:
        """The padding mask of `batch`, in the same shape: True at real tokens.

        It follows from the lengths: a black pixel has the id 0 like padding, but is real.
        """
        chosen = self._chosen(indices, length, "mask")
        sequences = self.width * chosen[:, None] + np.arange(self.width)
        lengths = self.offsets[sequences + 1] - self.offsets[sequences]
        if self.kept is not None:
            lengths = np.minimum(lengths, self.kept)
        real: NDArray[np.bool_] = np.arange(length) < lengths[:, :, None]
        return real if self.task.pair else real[:, 0]

    def batch_targets(self, indices: Sequence[int] | NDArray[np.integer], length: int) -> NDArray[np.int64]:
        """The labels of the tokens of `batch`, in the same shape: 0 for none, else the class + 1.

        Raises
        ------
        ValueError
            If the task has no labels of tokens, or an index is out of range.
        """
        if self.targets is None:
            raise ValueError(f"The tokens of {self.task.name} have no labels.")
        return self._padded(self.targets, self._chosen(indices, length, "batch_targets"), length)

    def _bounds(self, sequence: int) -> tuple[int, int]:
        start, stop = int(self.offsets[sequence]), int(self.offsets[sequence + 1])
        return start, stop if self.kept is None else min(stop, start + self.kept)

    def _padded(self, flat: NDArray[np.integer], chosen: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        rows = np.zeros((len(chosen), self.width, length), dtype=np.int64)
        for row, i in zip(rows, chosen.tolist(), strict=True):
            for part in range(self.width):
                start, stop = self._bounds(self.width * i + part)
                kept = min(stop - start, length)
                row[part, :kept] = flat[start : start + kept]
        return rows if self.task.pair else rows[:, 0]

    def _chosen(self, indices: Sequence[int] | NDArray[np.integer], length: int, owner: str) -> NDArray[np.int64]:
        length = check_int("length", length, owner, minimum=1)
        return self._checked(indices)

    def _checked(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
            raise ValueError(f"Examples are selected by a list of integers. Got {indices!r} instead.")
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(
                f"The {self.split} split of {self.task.name} has the examples 0 … {len(self) - 1}. "
                f"Got {chosen.min()} … {chosen.max()} instead."
            )
        return chosen.astype(np.int64)


def chunks(
    task: Task,
    split: str,
    examples: Iterable[tuple[int, Sequence[NDArray[np.integer]]]],
    *,
    foreign: bool = False,
) -> Iterator[Examples]:
    """Group single examples into `Examples` of a few million tokens, for `nip.data.write_task`.

    Parameters
    ----------
    task : Task
    split : str
    examples : iterable of (label, sequences)
        One sequence of token ids each, two in a task of pairs. Sequences are truncated to the task's `max_length`; an
        empty one becomes a single 0, because every example must have a token.
    foreign : bool, default=False
        As in `Examples`.

    Yields
    ------
    Examples
    """
    sequences: list[NDArray[np.integer]] = []
    labels: list[int] = []
    gathered = 0
    for label, parts in examples:
        for part in parts:
            kept = part[: task.max_length] if len(part) else np.zeros(1, np.uint8)
            sequences.append(kept)
            gathered += len(kept)
        labels.append(label)
        if gathered >= CHUNK:
            yield _packed(task, split, sequences, labels, foreign)
            sequences, labels, gathered = [], [], 0
    if labels:
        yield _packed(task, split, sequences, labels, foreign)


def _packed(task: Task, split: str, sequences: list[NDArray[np.integer]], labels: list[int], foreign: bool) -> Examples:
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return Examples(task, split, np.concatenate(sequences), offsets, np.array(labels, np.int64), foreign=foreign)


def byte_ids(text: bytes, task: Task) -> NDArray[np.uint16]:
    """The token ids of a text, truncated to the task's `max_length`: byte + 1; ndarray of shape (length,).

    Examples
    --------
    >>> from nip.data.tasks.registry import TASKS
    >>> byte_ids("é!".encode(), TASKS["text"]).tolist()
    [196, 170, 34]
    """
    return np.frombuffer(text[: task.max_length], np.uint8).astype(np.uint16) + np.uint16(1)


def read_only(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """Read-only views of arrays, so compiled functions get one type for arrays in memory and memory-mapped ones."""
    views = [np.asarray(array).view() for array in arrays]
    for view in views:
        view.setflags(write=False)
    return views
