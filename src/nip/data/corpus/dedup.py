"""Step 2 of a corpus: which documents are kept, and in which split each is.

Documents are numbered in the order of the corpus. Of equal ones the first is kept. Two others that agree in a band of
their MinHash (`nip.data.corpus.minhash`) are candidates: in each band a document is compared with the last one before
it that has the same value. A candidate is dropped if the exact Jaccard index of the two reaches the threshold, so there
are no false positives. A pair is missed with the probability that `bands` states, and where in every band another
document, then mostly similar to both, is between them. Of a chain of similar documents the first is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.corpus.clean import open_chunk
from nip.data.corpus.minhash import bands, jaccard
from nip.data.corpus.processes import Run
from nip.data.corpus.settings import Settings

AT_ONCE = 1 << 22  # documents that are sorted at a time, which bounds memory
_PAIRS = 2000  # that a process compares per task
_CHUNKS = 64  # open while comparing

Array = NDArray[Any]


class Fate(IntEnum):
    """The split of a document, or why it is dropped."""

    TRAIN = 0
    TEST = 1
    EQUAL = 2  # to an earlier one
    SIMILAR = 3  # to an earlier one


def fates(folder: Path, names: list[str], settings: Settings, run: Run, in_test: list[bool] | None = None) -> Array:
    """The fate of every document of the corpus.

    Parameters
    ----------
    folder : Path
        With the chunks.
    names : list of str
        Of the chunks, in order.
    settings : Settings
    run : callable
        From `nip.data.corpus.processes.runner`.
    in_test : list of bool, optional
        For each chunk, whether it is in the test split; by default the hash of each document decides.

    Returns
    -------
    ndarray of shape (n_documents,), uint8
        Values of `Fate`.
    """
    begins = np.concatenate([[0], np.cumsum([len(_hashes(folder, name)) for name in names])]).astype(np.int64)
    found = np.zeros(begins[-1], np.uint8)
    for k, name in enumerate(names):
        least = np.uint64(int(settings.frac_test * 2.0**64))
        test = in_test[k] if in_test is not None else _hashes(folder, name)[:, 1] < least
        found[begins[k] : begins[k + 1]] = np.where(test, Fate.TEST, Fate.TRAIN)
    if not settings.exact_duplicates:
        for numbers in repeated(folder, names, begins):
            found[numbers] = Fate.EQUAL
    if settings.near_duplicates:
        pairs = candidates(folder, names, begins, found != Fate.EQUAL, settings.near_duplicates)
        cuts = [pairs[i : i + _PAIRS] for i in range(0, len(pairs), _PAIRS)]
        for similar in run(compare, [(folder, names, begins, cut, settings.near_duplicates) for cut in cuts]):
            found[similar] = Fate.SIMILAR
    return found


def repeated(folder: Path, names: list[str], begins: Array) -> Iterator[Array]:
    """The numbers of the documents that have the hash of an earlier one, found in one share of the hashes at a time.

    Parameters
    ----------
    folder : Path
        With the files of hashes.
    names : list of str
        The parts of the corpus.
    begins : ndarray of shape (n_parts + 1,), int64
        The number of each part's first document, and of all documents.
    """
    for hashes, numbers in _shares(lambda k: _hashes(folder, names[k]), begins):
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal ones keep the order of the corpus
        same = (hashes[order][1:] == hashes[order][:-1]).all(axis=1)
        yield numbers[order][1:][same]


def candidates(folder: Path, names: list[str], begins: Array, wanted: Array, threshold: float) -> Array:
    """Pairs of documents that agree in a band.

    Parameters
    ----------
    folder : Path
        With the chunks.
    names : list of str
        Of the chunks, in order.
    begins : ndarray of shape (n_chunks + 1,), int64
        The number of each chunk's first document, and of all.
    wanted : ndarray of shape (n_documents,), bool
        Which documents to compare.
    threshold : float
        Jaccard index.

    Returns
    -------
    ndarray of shape (n_pairs, 2), int64
        The later and the earlier document of each pair, sorted.
    """
    pairs = np.empty((0, 2), np.int64)
    for band in range(bands(threshold)[0]):
        for hashes, numbers in _shares(partial(_band, folder, names, band), begins):
            kept = np.flatnonzero(wanted[numbers])
            order = kept[np.argsort(hashes[kept, 0], kind="stable")]
            values, ordered = hashes[order, 0], numbers[order]
            again = np.flatnonzero(values[1:] == values[:-1]) + 1
            new = np.stack([ordered[again], ordered[again - 1]], axis=1)
            pairs = np.unique(np.concatenate([pairs, new]), axis=0)
    return pairs


def compare(folder: Path, names: list[str], begins: Array, pairs: Array, threshold: float) -> Array:
    """The later documents of those pairs whose Jaccard index is at least the threshold.

    Parameters
    ----------
    folder, names, begins, threshold
        See `candidates`.
    pairs : ndarray of shape (n_pairs, 2), int64

    Returns
    -------
    ndarray of int64
        Document numbers, sorted.
    """
    chunk = lru_cache(_CHUNKS)(lambda k: open_chunk(folder, names[k]))

    def text(number: int) -> bytes:
        k = int(np.searchsorted(begins, number, side="right")) - 1
        return bytes(chunk(k).document(number - int(begins[k])))

    similar = [later for later, earlier in pairs.tolist() if jaccard(text(later), text(earlier)) >= threshold]
    return np.unique(np.array(similar, np.int64))


def _shares(load: Callable[[int], Array], begins: Array) -> Iterator[tuple[Array, Array]]:
    """Divide the documents into shares of about `AT_ONCE`, equal keys in one share: their keys and their numbers.

    `load` returns the keys of a chunk, a row per document; the first column selects the share. Chunks are opened one
    after the other: a corpus has more of them than a process may have open files.
    """
    n_shares = -(-int(begins[-1]) // AT_ONCE)
    for share in range(n_shares):
        keys, numbers = [], []
        for k in range(begins.size - 1):
            each = load(k)
            # keys are hashes, so their remainders divide them evenly
            mine = np.flatnonzero(each[:, 0] % np.uint64(n_shares) == share)
            keys.append(each[mine])
            numbers.append(mine + begins[k])
        yield np.concatenate(keys), np.concatenate(numbers)


def _hashes(folder: Path, name: str) -> Array:
    hashes: Array = np.load(folder / f"{name}.hashes.npy", allow_pickle=False)
    return hashes


def _band(folder: Path, names: list[str], band: int, k: int) -> Array:
    """A band of the documents of a chunk, as a column."""
    return np.array(np.load(folder / f"{names[k]}.bands.npy", mmap_mode="r", allow_pickle=False)[band])[:, None]
