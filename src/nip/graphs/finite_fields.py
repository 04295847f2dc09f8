"""Arithmetic tables of finite fields: prime orders by residues, prime powers with the galois library."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Field:
    """GF(q) on the integers 0 … q − 1; for q = p^k the base-p digits of an integer are a polynomial's coefficients.

    Parameters
    ----------
    add, subtract, multiply : ndarray of shape (q, q)
        ``add[a, b]`` is a + b, and so on.
    """

    add: Table
    subtract: Table
    multiply: Table


def prime_of(q: int) -> int | None:
    """The prime of which q is a power; None if q is not a prime power.

    Examples
    --------
    >>> prime_of(8), prime_of(13), prime_of(12), prime_of(1)
    (2, 13, None, None)
    """
    p = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    while q > 1 and q % p == 0:
        q //= p
    return p if q == 1 and p > 1 else None


@functools.lru_cache(maxsize=4)
def field(q: int) -> Field:
    """The field of q elements.

    Raises
    ------
    ValueError
        If q is not a prime power.
    ImportError
        If q is not prime and galois (the extra ``fast``) is not installed.

    Notes
    -----
    GF(p^k) uses the Conway polynomial, which is unique by definition, so that no library version changes a graph. Its
    root x is primitive: all products follow from the powers of x.
    """
    p = prime_of(q)
    if p is None:
        raise ValueError(f"The order of a finite field must be a prime power. Got {q} instead.")
    numbers = np.arange(q)
    if p == q:
        return Field(
            np.add.outer(numbers, numbers) % q,
            np.subtract.outer(numbers, numbers) % q,
            np.multiply.outer(numbers, numbers) % q,
        )
    k = next(e for e in range(2, q) if p**e == q)
    places = p ** np.arange(k)
    digits = numbers[:, None] // places % p
    add = ((digits[:, None] + digits[None]) % p) @ places
    subtract = ((digits[:, None] - digits[None]) % p) @ places
    tail = -_conway_polynomial(p, k)[:0:-1] % p  # x^k in terms of 1, x, …, x^(k − 1)
    power = np.zeros(k, dtype=np.int64)
    power[0] = 1
    powers = np.empty(q - 1, dtype=np.int64)
    for e in range(q - 1):
        powers[e] = power @ places
        power = (np.concatenate([[0], power[:-1]]) + power[-1] * tail) % p
    exponent = np.empty(q, dtype=np.int64)
    exponent[powers] = np.arange(q - 1)
    multiply = np.zeros((q, q), dtype=np.int64)
    multiply[1:, 1:] = powers[np.add.outer(exponent[1:], exponent[1:]) % (q - 1)]
    return Field(add, subtract, multiply)


def _conway_polynomial(p: int, k: int) -> Table:
    """Its k + 1 coefficients, the highest first."""
    try:
        import galois
    except ImportError as error:
        raise ImportError(
            f"A graph of order {p**k} = {p}^{k} needs the library galois: pip install 'nip[fast]'. "
            "A prime order does not."
        ) from error
    return np.array([int(c) for c in galois.conway_poly(p, k).coefficients()], dtype=np.int64)
