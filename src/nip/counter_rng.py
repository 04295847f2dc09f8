"""Random numbers that are a function of a seed and a counter (SplitMix64), and permutations made of them.

Any number of the series, and any place of a permutation, is computed without the others, so the draws for a sample do
not depend on the batch, process or machine that reads it.

References
----------
.. [1] G. L. Steele, D. Lea, C. H. Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014, section 3.
.. [2] J. Black, P. Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002, section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment
_ROUNDS = 6
_MASK = (1 << 64) - 1


def mix(value: Any) -> Any:
    """SplitMix64's finalizer [1]_ of a uint64 or an array of them: every input bit affects every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def split_mix(seed: int | np.uint64 | Array, counters: Array) -> Array:
    """Outputs of SplitMix64 [1]_ by their position: a generator with this seed returns output 1 first, then 2, ….

    Parameters
    ----------
    seed : int or ndarray of uint64
        In [0, 2⁶⁴); an array is broadcast against `counters`.
    counters : ndarray of int
        Positions, modulo 2⁶⁴.

    Returns
    -------
    ndarray of uint64

    Examples
    --------
    >>> split_mix(1234567, np.array([1, 2])).tolist()
    [6457827717110365317, 3203168211198807973]
    """
    outputs: Array = mix(np.asarray(counters).astype(np.uint64) * np.uint64(GAMMA) + np.asarray(seed, np.uint64))
    return outputs


def key(*numbers: int) -> np.uint64:
    """A 64-bit seed derived from several integers and their order."""
    value = np.zeros(1, np.uint64)
    for number in numbers:
        value = split_mix(np.uint64((number + 1) & _MASK), value)
    return np.uint64(value[0])


def permuted(places: Array, n: int, seed: int, epoch: int) -> Array:
    """The elements at some places of an epoch's random permutation of 0 … n − 1.

    Parameters
    ----------
    places : ndarray of int64
        In [0, n).
    n : int
        Length of the permutation.
    seed, epoch : int
        Select the permutation.

    Returns
    -------
    ndarray of int64
        In the shape of `places`. All places together give every element once.

    Examples
    --------
    >>> permuted(np.arange(8), 8, seed=0, epoch=0).tolist()
    [3, 4, 7, 5, 1, 6, 0, 2]
    >>> permuted(np.array([5, 6]), 8, seed=0, epoch=0).tolist()
    [6, 0]

    Notes
    -----
    A Feistel network permutes the smallest square of a power of two that is at least n, so at most 4 n numbers. Results
    outside [0, n) are permuted again until they fall inside (cycle walking [2]_), at most 4 times on average.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = [key(seed, epoch, turn) for turn in range(_ROUNDS)]
    found = np.array(places, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & low
        for each in keys:
            left, right = right, left ^ (split_mix(each, right) & low)
        found[outside] = left << half | right
        outside[outside] = found[outside] >= n
    return found.astype(np.int64)
