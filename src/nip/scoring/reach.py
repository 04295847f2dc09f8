"""What a model of a given depth can hear: a layer is a step, and distance beyond the number of layers is silence.

NIP looks along shortest paths to the farthest vertices, however far they are. A model takes as many steps as it has
layers of attention, each to a token itself or one it attends to. With P the matrix whose row b holds the shares with
which token b attends, its own token included, each ``1 / (degree + 1)`` as before any training, what token b hears of a
after h layers is ``(P^h)[b, a]``. Three numbers sum this up:

*Reach*: the share of pairs, a not b, with a distance of at most h, for which that is not zero. No training helps beyond
it.

*Least payload*: the smallest of these numbers over all pairs, the payload of the worst pair at this depth; zero unless
everything reaches everything.

*Even reach*: how many tokens b hears as well as if it attended to all of them alike, over the number of tokens, mean
over b: the exponential of the entropy of row b of P^h. It counts what reach counts, but discounts what arrives faintly,
as through a hub; 1 is the complete graph's.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import sparse

from nip.graphs.compose import lift
from nip.graphs.pattern import Pattern, check_int

_ENTRIES_PER_BATCH = 4_000_000


@dataclass(frozen=True)
class Reach:
    """What a model of `steps` layers of attention can hear over a pattern.

    Parameters
    ----------
    steps : int
    reach : float or None
        Share of ordered pairs of different tokens (in a causal pattern: the earlier heard by the later) that are at
        most `steps` apart; None where there is no pair.
    log10_least_payload : float or None
        log10 of the smallest share of attention among these pairs; −inf where some pair is farther apart.
    even_reach : float
        Effective number of tokens heard over the number that could be, mean over all tokens, in (0, 1].
    """

    steps: int
    reach: float | None
    log10_least_payload: float | None
    even_reach: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as valid JSON values: what is infinite becomes None."""
        least = self.log10_least_payload
        return {**asdict(self), "log10_least_payload": None if least is None or math.isinf(least) else least}


def reach(pattern: Pattern, steps: int, block_size: int = 1) -> Reach:
    """How much of everything arrives within a number of steps.

    Parameters
    ----------
    pattern : Pattern
    steps : int
        Layers of attention, at least 1.
    block_size : int, default=1
        Tokens per vertex of the pattern.

    Raises
    ------
    ValueError
        If `steps` or the block size is no such integer.

    Notes
    -----
    Takes O(steps · n · edges) multiplications on the block graph, in batches of bounded memory; causal patterns of
    blocks are lifted to their tokens first.

    Examples
    --------
    In the cube of 8 vertices 6 of the 7 others are within two steps.

    >>> from nip.graphs import pattern
    >>> two = reach(pattern("hypercube", 8), 2)
    >>> round(two.reach, 4), two.log10_least_payload, round(two.even_reach, 3)
    (0.8571, -inf, 0.841)
    """
    check_int("steps", steps, "reach", minimum=1)
    check_int("block_size", block_size, "reach", minimum=1)
    if pattern.causal and block_size > 1:
        pattern, block_size = lift(pattern, block_size), 1
    n, b = pattern.n, block_size
    shares = _attention(pattern)
    reached = 0
    least = math.inf
    even = 0.0
    size = max(1, _ENTRIES_PER_BATCH // n)
    for start in range(0, n, size):
        rows = np.arange(start, min(n, start + size))
        heard = np.zeros((rows.size, n))
        heard[np.arange(rows.size), rows] = 1.0
        for _ in range(steps):
            heard = heard @ shares
        spread = heard / b  # of a block's share each of its tokens has an equal part
        among = np.where(spread > 0, spread, 1.0)
        entropy = -b * (among * np.log(among)).sum(axis=1)
        could = rows + 1 if pattern.causal else np.full(rows.size, n * b)
        even += float((np.exp(entropy) / could).sum())
        own = np.zeros(heard.shape, dtype=bool)
        own[np.arange(rows.size), rows] = True
        pairs = np.where(own, b * (b - 1), b * b)
        if pattern.causal:
            pairs = np.where(np.arange(n) < rows[:, None], pairs, 0)
        reached += int(pairs[heard > 0].sum())
        counted = pairs > 0
        if counted.any():
            least = min(least, float(spread[counted].min()))
    total = n * b * (n * b - 1) // (2 if pattern.causal else 1)
    if not total:
        return Reach(int(steps), None, None, even / n)
    return Reach(int(steps), reached / total, math.log10(least) if least > 0 else -math.inf, even / n)


def _attention(pattern: Pattern) -> sparse.csr_array:
    """The matrix of shares: row b attends to itself and to its neighbours alike."""
    n = pattern.n
    adjacency = sparse.csr_array((np.ones(pattern.indices.size), pattern.indices, pattern.indptr), shape=(n, n))
    return sparse.csr_array(
        sparse.diags_array(1.0 / (pattern.degrees + 1.0)) @ (adjacency + sparse.eye_array(n, format="csr"))
    )
