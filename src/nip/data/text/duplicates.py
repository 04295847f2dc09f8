"""The second step: which documents are kept, and in which split each is.

Documents are numbered in the order of the corpus. Of equal ones the first is kept. Of the others, two that agree in a
band of their MinHash (`nip.data.text.fingerprints`) are candidates; in each band a document is compared with the first
one that agrees with it and with the one right before it. What decides is the exact Jaccard index of the two, so that
nothing is dropped by mistake; pairs are missed with the probability that `bands` states.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.text.fingerprints import bands, jaccard
from nip.data.text.formatting import open_chunk
from nip.data.text.processes import Run
from nip.data.text.settings import Settings

AT_ONCE = 1 << 22  # documents that are sorted at a time: memory is bounded by this
_PAIRS = 2000  # that a worker compares at a time

Array = NDArray[Any]


class Fate(IntEnum):
    """What becomes of a document."""

    TRAIN = 0
    TEST = 1
    EQUAL = 2  # to one before
    SIMILAR = 3  # to one before


def fates(folder: Path, names: list[str], settings: Settings, run: Run, in_test: list[bool] | None = None) -> Array:
    """What becomes of every document of the corpus.

    Parameters
    ----------
    folder : Path
        With the chunks.
    names : list of str
        Of the chunks, in order.
    settings : Settings
    run : callable
        Of `nip.data.text.processes.runner`.
    in_test : list of bool, optional
        For each chunk, whether it is of the test split; else each document's hash decides.

    Returns
    -------
    ndarray of shape (n_documents,), uint8
        Values of `Fate`.
    """
    hashes = [np.load(folder / f"{name}.hashes.npy", mmap_mode="r", allow_pickle=False) for name in names]
    begins = np.concatenate([[0], np.cumsum([len(each) for each in hashes])]).astype(np.int64)
    found = np.zeros(begins[-1], np.uint8)
    for k, each in enumerate(hashes):
        test = in_test[k] if in_test is not None else each[:, 1] < np.uint64(int(settings.frac_test * 2.0**64))
        found[begins[k] : begins[k + 1]] = np.where(test, Fate.TEST, Fate.TRAIN)
    if not settings.exact_duplicates:
        for numbers in repeated(hashes, begins):
            found[numbers] = Fate.EQUAL
    if settings.near_duplicates:
        pairs = candidates(folder, names, begins, found != Fate.EQUAL, settings.near_duplicates)
        cuts = [pairs[i : i + _PAIRS] for i in range(0, len(pairs), _PAIRS)]
        for similar in run(compare, [(folder, names, begins, cut, settings.near_duplicates) for cut in cuts]):
            found[similar] = Fate.SIMILAR
    return found


def repeated(hashes: list[Array], begins: Array) -> Iterator[Array]:
    """Numbers of the documents whose hash one before them has; a share of all hashes is sorted at a time."""
    for mine, numbers in _shares([each[:, 0] for each in hashes], begins):
        other = np.concatenate([each[:, 1][which] for each, which in zip(hashes, mine, strict=True)])
        first = np.concatenate([each[:, 0][which] for each, which in zip(hashes, mine, strict=True)])
        order = np.lexsort((other, first))  # stable: equal ones stay in the order of the corpus
        same = (first[order][1:] == first[order][:-1]) & (other[order][1:] == other[order][:-1])
        yield numbers[order][1:][same]


def candidates(folder: Path, names: list[str], begins: Array, wanted: Array, threshold: float) -> Array:
    """Pairs of documents that agree in a band and are to be compared.

    Returns
    -------
    ndarray of shape (n_pairs, 2), int64
        The later one and the earlier one, sorted.
    """
    pairs = np.empty((0, 2), np.int64)
    rows = [np.load(folder / f"{name}.bands.npy", mmap_mode="r", allow_pickle=False) for name in names]
    for band in range(bands(threshold)[0]):
        keys = [row[band] for row in rows]
        for mine, numbers in _shares(keys, begins):
            values = np.concatenate([each[which] for each, which in zip(keys, mine, strict=True)])
            kept = wanted[numbers]
            values, numbers = values[kept], numbers[kept]  # noqa: PLW2901
            order = np.argsort(values, kind="stable")
            values, ordered = values[order], numbers[order]
            again = np.flatnonzero(values[1:] == values[:-1]) + 1
            starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
            first = starts[np.searchsorted(starts, again, side="right") - 1]
            new = [np.stack([ordered[again], ordered[before]], axis=1) for before in (again - 1, first)]
            pairs = np.unique(np.concatenate([pairs, *new]), axis=0)
    return pairs


def compare(folder: Path, names: list[str], begins: Array, pairs: Array, threshold: float) -> Array:
    """Those of the pairs' later documents whose Jaccard index with the earlier one is at least the threshold."""
    chunks: dict[int, Any] = {}

    def text(number: int) -> bytes:
        k = int(np.searchsorted(begins, number, side="right")) - 1
        if k not in chunks:
            chunks[k] = open_chunk(folder, names[k])
        return bytes(chunks[k].document(number - int(begins[k])))

    similar = [later for later, earlier in pairs.tolist() if jaccard(text(later), text(earlier)) >= threshold]
    return np.unique(np.array(similar, np.int64))


def _shares(keys: list[Array], begins: Array) -> Iterator[tuple[list[Array], Array]]:
    """The documents in shares of about `AT_ONCE`, equal keys in one: per chunk which they are, and their numbers."""
    n_shares = -(-int(begins[-1]) // AT_ONCE)
    for share in range(n_shares):
        # keys are as good as random, so that their remainders part them evenly
        mine = [np.flatnonzero(each % np.uint64(n_shares) == share) for each in keys]
        yield mine, np.concatenate([which + begin for which, begin in zip(mine, begins, strict=False)])
