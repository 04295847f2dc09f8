"""The hypercube, with its vertices in Gray-code order.

Position i has the label ``gray(i) = i ^ (i >> 1)``, the reflected binary code; two positions are adjacent if their
labels differ in one bit. Consecutive labels of a Gray code differ in one bit, so neighbours in the sequence are
neighbours in the graph: the cube contains a window of one block on either side. Along the sequence, every position is
adjacent to its *mirror image* in each aligned block of 2, 4, 8, … positions that contains it:

    0 1 2 3 | 4 5 6 7      position 1 is adjacent to 0 (its mirror image among 0–1),
      ^                    to 2 (among 0–3) and to 6 (among 0–7).

Plain binary order, in which i and i XOR 2^k are adjacent, gives the same graph under another numbering, with the same
score, but neighbours in the sequence need not be adjacent: 3 and 4 differ in three bits.
"""

from __future__ import annotations

import numpy as np

from nip.graphs.pattern import Pattern, check_int, not_traced


@not_traced
def hypercube(n: int) -> Pattern:
    """The hypercube on n vertices in Gray-code order.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1. If it is not a power of two, the cube of the next power is truncated to its
        first n positions: neighbours beyond the end are left out, so some degrees are lower.

    Returns
    -------
    Pattern
        Undirected, of degree log2 n if n is a power of two.

    Raises
    ------
    ValueError
        If n is not an integer of at least 1.

    Examples
    --------
    >>> [hypercube(8).row(i).tolist() for i in range(4)]
    [[1, 3, 7], [0, 2, 6], [1, 3, 5], [0, 2, 4]]

    References
    ----------
    .. [1] "What Dense Graph Do You Need for Self-Attention?", ICML 2022, arXiv 2205.14014.
    """
    n = check_int("n", n, "hypercube", minimum=1)
    position = np.arange(n)
    bits = (n - 1).bit_length()
    # The mirror image of i in its aligned block of 2^(k+1) positions has the lowest k + 1 bits of i inverted.
    mirror = np.concatenate([position ^ (2 ** (k + 1) - 1) for k in range(bits)] or [position])
    inside = mirror < n
    return Pattern.from_edges(n, np.tile(position, max(bits, 1))[inside], mirror[inside], name="hypercube")
