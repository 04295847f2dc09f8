"""One split of a task: labelled token sequences in flat arrays, in memory or mapped from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks import Task
from nip.graphs.pattern import check_int


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled token sequences of one split.

    Parameters
    ----------
    task : Task
        The task that they belong to.
    split : str
        ``train``, ``dev`` or ``test``.
    tokens : ndarray of shape (n_tokens,)
        The token ids of all examples, one after the other, without padding. Only what `batch` and `sequence` ask for
        is read where the array is mapped from a file.
    offsets : ndarray of shape (n_examples + 1,)
        Example i is ``tokens[offsets[i]:offsets[i + 1]]``.
    labels : ndarray of shape (n_examples,)
        Class of each example.

    Examples
    --------
    >>> from nip.data.tasks import TASKS
    >>> two = Examples(TASKS["listops"], "dev", np.array([7, 2, 8, 9, 5]), np.array([0, 1, 5]), np.array([1, 3]))
    >>> input_ids, labels = two.batch([1, 0], length=6)
    >>> input_ids.tolist(), labels.tolist()
    ([[2, 8, 9, 5, 0, 0], [7, 0, 0, 0, 0, 0]], [3, 1])
    """

    task: Task
    split: str
    tokens: NDArray[np.integer]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        arrays = read_only(self.tokens, self.offsets, self.labels)
        for name, array in zip(("tokens", "offsets", "labels"), arrays, strict=True):
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example; ndarray of shape (n_examples,)."""
        return np.diff(self.offsets)

    def sequence(self, index: int) -> NDArray[np.integer]:
        """The token ids of one example, whole and without padding; ndarray of shape (length,)."""
        (checked,) = self._checked([index])
        return self.tokens[self.offsets[checked] : self.offsets[checked + 1]]

    def batch(
        self, indices: Sequence[int] | NDArray[np.integer], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Several examples, cut or padded on the right with 0 to `length` tokens.

        What is cut is the tail, as in Long Range Arena.

        Parameters
        ----------
        indices : sequence of int
            Which examples, in [0, n_examples); repetition is allowed.
        length : int
            Tokens per row, at least 1.

        Returns
        -------
        input_ids : ndarray of shape (batch, length), int64
        labels : ndarray of shape (batch,), int64

        Raises
        ------
        ValueError
            If an index is outside the split.
        """
        check_int("length", length, "batch", minimum=1)
        chosen = self._checked(indices)
        input_ids = np.zeros((len(chosen), length), dtype=np.int64)
        for row, i in zip(input_ids, chosen, strict=True):
            start = self.offsets[i]
            kept = min(int(self.offsets[i + 1] - start), length)
            row[:kept] = self.tokens[start : start + kept]
        return input_ids, self.labels[chosen]

    def _checked(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
            raise ValueError(f"Examples are chosen by a list of integers. Got {indices!r} instead.")
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(
                f"The {self.split} split of {self.task.name} holds the examples 0 … {len(self) - 1}. "
                f"Got {chosen.min()} … {chosen.max()} instead."
            )
        return chosen.astype(np.int64)


def read_only(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of arrays that cannot be written to; so compiled functions meet one type, in memory or mapped."""
    views = [np.asarray(array).view() for array in arrays]
    for view in views:
        view.setflags(write=False)
    return views
