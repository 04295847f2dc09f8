"""Similarity of documents: hash of the text, set of shingles, and bands of the MinHash.

A *shingle* is a sequence of `WIDTH` words with ASCII letters in lower case; a shorter document is one shingle. Words
are separated by spaces; each character of a script without spaces (Chinese, Japanese, Korean) is a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.counter_rng import GAMMA, mix
from nip.data.compiled import compiled

WIDTH = 5  # words of a shingle
PERMUTATIONS = 128  # values of a MinHash
SEED = 20140613  # of the MinHash: arbitrary, but fixed
_FACTOR = np.uint64(GAMMA)  # odd, and its bits look random
_FOUND = 0.99  # minimum recall of pairs at the threshold

Array = NDArray[Any]
_mix = compiled(mix)


def text_hash(text: bytes) -> bytes:
    """A 128-bit hash of a text."""
    return hashlib.blake2b(text, digest_size=16).digest()


def bands(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """The number of bands of a MinHash and of values per band with which 99 % of similar pairs agree in a band.

    Parameters
    ----------
    threshold : float
        Jaccard index of the pairs, in (0, 1].
    permutations : int, default=128
        Values of the MinHash; an upper bound of bands × values per band.

    Returns
    -------
    n_bands, rows : int

    Examples
    --------
    >>> bands(0.8), bands(0.5)
    ((21, 6), (42, 3))

    Notes
    -----
    A pair with Jaccard index s agrees in one of b bands of r values with probability 1 − (1 − s^r)^b [1]_. The largest
    sufficient r gives the fewest false candidates.

    References
    ----------
    .. [1] J. Leskovec, A. Rajaraman, J. Ullman, *Mining of Massive Datasets*, section 3.4.2.
    """
    for rows in range(permutations, 1, -1):
        n = permutations // rows
        if 1 - (1 - threshold**rows) ** n >= _FOUND:
            return n, rows
    return permutations, 1


def shingles(texts: Sequence[bytes], width: int = WIDTH) -> tuple[Array, Array]:
    """Hashes of the shingles of documents, one document after the other.

    Returns
    -------
    hashes : ndarray of shape (n_shingles,), uint64
        Repeated shingles included.
    rows : ndarray of shape (n_texts + 1,), int64
        Document i has the shingles ``hashes[rows[i]:rows[i + 1]]``.
    """
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    hashes, rows = _shingles(np.frombuffer(b"".join(texts), np.uint8), offsets, width)
    return hashes, rows


def jaccard(one: bytes, other: bytes) -> float:
    """The Jaccard index of two documents' sets of shingles: |intersection| / |union|; 1 if both are empty.

    Examples
    --------
    >>> jaccard(b"a b c d e f", b"a b c d e g")  # abcde is shared, bcdef and bcdeg are not
    0.3333333333333333
    """
    hashes, rows = shingles([one, other])
    first, second = np.unique(hashes[: rows[1]]), np.unique(hashes[rows[1] :])
    shared = np.intersect1d(first, second, assume_unique=True).size
    union = first.size + second.size - shared
    return shared / union if union else 1.0


def band_hashes(texts: Sequence[bytes], threshold: float) -> Array:
    """The bands of documents' MinHashes.

    Parameters
    ----------
    texts : sequence of bytes
    threshold : float
        See `bands`.

    Returns
    -------
    ndarray of shape (n_bands, n_texts), uint64
        Documents with equal values in a band are candidates.

    Raises
    ------
    ImportError
        If rensa is not installed.
    """
    try:
        rensa = import_module("rensa")
    except ImportError as error:
        raise ImportError("Finding near duplicates needs rensa: pip install 'nip[pretrain]'") from error

    n, rows = bands(threshold)
    if not texts:
        return np.empty((n, 0), np.uint64)
    hashes, ends = shingles(texts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, num_perm=PERMUTATIONS, seed=SEED)
    digests = np.array(matrix.to_rows(), np.uint32)
    hashed: Array = _bands(digests, n, rows)
    return hashed


@compiled
def _shingles(text: Array, offsets: Array, width: int) -> tuple[Array, Array]:
    n_texts = offsets.size - 1
    # a word has at least two bytes with its separator, or three; and a text of few words is one shingle
    hashes = np.empty(text.size // 2 + n_texts + 1, np.uint64)
    rows = np.zeros(n_texts + 1, np.int64)
    beyond = np.uint64(1)  # the factor of a word that leaves the shingle
    for _ in range(width):
        beyond *= _FACTOR
    found = 0
    for t in range(n_texts):
        recent = np.zeros(width, np.uint64)
        sequence = np.uint64(0)
        place = words = 0
        word = np.uint64(0)  # 0: no word has begun
        left = 0  # bytes until the word is complete; known only for characters that are words
        for i in range(offsets[t], offsets[t + 1] + 1):
            byte = text[i] if i < offsets[t + 1] else np.uint8(32)
            space = byte in (10, 32)
            alone = 0xE3 <= byte <= 0xE9 or byte == 0xEF
            if word != 0 and (left == 0 or space or alone):
                # a rolling hash: a polynomial of the last words
                word = _mix(word)
                sequence = sequence * _FACTOR + word - recent[place] * beyond
                recent[place] = word
                place = place + 1 if place + 1 < width else 0
                words += 1
                word = np.uint64(0)
                if words >= width:
                    hashes[found] = _mix(sequence)
                    found += 1
            if not space:
                if 65 <= byte <= 90:
                    byte += np.uint8(32)
                if word == 0:
                    word = np.uint64(14695981039346656037)
                    left = 3 if alone else text.size
                # FNV-1a; an odd number, so that it is never 0
                word = ((word ^ np.uint64(byte)) * np.uint64(1099511628211)) | np.uint64(1)
                left -= 1
        if 0 < words < width:
            hashes[found] = _mix(sequence + np.uint64(words))
            found += 1
        rows[t + 1] = found
    return hashes[:found].copy(), rows


@compiled
def _bands(digests: Array, n: int, rows: int) -> Array:
    hashes = np.empty((n, digests.shape[0]), np.uint64)
    for b in range(n):
        for t in range(digests.shape[0]):
            value = np.uint64(b)
            for r in range(b * rows, (b + 1) * rows):
                value = _mix(value * _FACTOR + np.uint64(digests[t, r]))
            hashes[b, t] = value
    return hashes
