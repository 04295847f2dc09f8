"""Samples of a fixed length from documents of any length: where each begins, and what it looks like.

A sample is a row of segments, each of one document: ``[CLS]``, tokens, ``[SEP]``. Documents are taken in order and cut
where a sample is full; the rest goes on in the next sample as a segment of its own. So nothing is lost, and hardly
anything is padding: a sample ends early only where fewer than `LEAST` tokens of a longer rest would fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import numba
except ImportError as error:
    raise ImportError("Corpora need numba: pip install 'nip[pretrain]'") from error

from numpy.typing import NDArray

LEAST = 16  # tokens of a segment that goes on in the next sample

Array = NDArray[Any]
compiled = numba.njit(nogil=True, cache=True)


def pack(documents: Array, length: int, *, packing: bool = True) -> Array:
    """Where samples begin in the tokens of all documents.

    Parameters
    ----------
    documents : ndarray of shape (n_documents + 1,), int64
        Where each document begins in the tokens, and the end; special tokens are not among them.
    length : int
        Tokens of a sample with its special ones, at least 3.
    packing : bool, default=True
        False gives each sample one segment.

    Returns
    -------
    ndarray of shape (n_samples + 1,), int64
        Where each sample begins in the tokens, and the end.

    Examples
    --------
    >>> pack(np.array([0, 5, 9]), 8)  # [CLS] 5 [SEP], where 1 is left; [CLS] 4 [SEP]
    array([0, 5, 9])
    >>> pack(np.array([0, 2, 4, 11]), 8)  # [CLS] 2 [SEP] [CLS] 2 [SEP]; then 6 and 1 of the last document
    array([ 0,  4, 10, 11])
    """
    starts: Array = _pack(np.asarray(documents), length, packing)
    return starts


def assemble(
    tokens: Array, documents: Array, begin: int, end: int, cls: int, sep: int, input_ids: Array, segment_ids: Array
) -> None:
    """Write the sample with the tokens `begin` … `end` into two rows that hold padding.

    Parameters
    ----------
    tokens, documents : ndarray
        Of the shard.
    begin, end : int
        From what `pack` gives.
    cls, sep : int
        The tokens around a segment.
    input_ids : ndarray of shape (length,)
        Is written to.
    segment_ids : ndarray of shape (length,)
        Is written to: 1 for the first segment, 2 for the next …; 0 stays where there is padding.
    """
    _assemble(np.asarray(tokens), np.asarray(documents), begin, end, cls, sep, input_ids, segment_ids)


@compiled
def _pack(documents: Array, length: int, packing: bool) -> Array:
    n_tokens = documents[-1]
    # a sample is full, or a document ends in it
    starts = np.empty(documents.size + n_tokens // max(1, length - 2) + 2, np.int64)
    samples = 0
    room = length
    if n_tokens > 0:
        starts[0] = 0
        samples = 1
    for d in range(documents.size - 1):
        place, end = documents[d], documents[d + 1]
        while place < end:
            whole = end - place <= room - 2
            fits = room == length or (packing and (whole or room - 2 >= LEAST))
            if not fits:
                starts[samples] = place
                samples += 1
                room = length
            taken = min(end - place, room - 2)
            place += taken
            room -= taken + 2
    if samples == 0:
        return np.zeros(1, np.int64)
    starts[samples] = n_tokens
    return starts[: samples + 1].copy()


@compiled
def _assemble(
    tokens: Array, documents: Array, begin: int, end: int, cls: int, sep: int, input_ids: Array, segment_ids: Array
) -> None:
    d = np.searchsorted(documents, begin, side="right") - 1
    segment = place = 0
    while begin < end:
        stop = min(end, documents[d + 1])
        segment += 1
        after = place + stop - begin + 2
        input_ids[place] = cls
        for i in range(stop - begin):
            input_ids[place + 1 + i] = tokens[begin + i]
        input_ids[after - 1] = sep
        segment_ids[place:after] = segment
        place, begin = after, stop
        d += 1
