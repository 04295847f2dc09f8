"""An order of samples for each seed and epoch, any place of which is computed without the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ROUNDS = 6
_ODD = 0x9E3779B97F4A7C15
_ALL = (1 << 64) - 1


def mixed(values: Array) -> Array:
    """SplitMix64's finaliser [1]_: every bit of a 64-bit value moves every bit of its result.

    References
    ----------
    .. [1] G. Steele, D. Lea, C. Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014.
    """
    values = np.asarray(values, np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Array = values ^ (values >> np.uint64(31))
    return found


def key(*numbers: int) -> np.uint64:
    """One 64-bit value of several numbers and their order."""
    value = np.zeros(1, np.uint64)
    for number in numbers:
        value = mixed(value * np.uint64(_ODD) + np.uint64((number + 1) & _ALL))
    return np.uint64(value[0])


def permuted(places: Array, n: int, seed: int, epoch: int) -> Array:
    """The samples at some places of the order of an epoch.

    Parameters
    ----------
    places : ndarray of int64
        From 0 to n − 1.
    n : int
        The number of samples.
    seed, epoch : int

    Returns
    -------
    ndarray of int64
        Of the same shape. All places together give every sample once.

    Examples
    --------
    >>> permuted(np.arange(8), 8, seed=0, epoch=0).tolist()
    [3, 4, 7, 5, 1, 6, 0, 2]
    >>> permuted(np.array([5, 6]), 8, seed=0, epoch=0).tolist()
    [6, 0]

    Notes
    -----
    A Feistel network on the smallest square of a power of two that holds n: it permutes a set of at most 4 n numbers,
    and what falls outside is sent through again until it falls inside (cycle walking [1]_), at most 4 times on average.

    References
    ----------
    .. [1] J. Black, P. Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002, section 3.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = [key(seed, epoch, turn) for turn in range(_ROUNDS)]
    found = np.array(places, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & low
        for each in keys:
            left, right = right, left ^ (mixed(right * np.uint64(_ODD) + each) & low)
        found[outside] = left << half | right
        outside[outside] = found[outside] >= n
    return found.astype(np.int64)
