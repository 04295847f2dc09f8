"""Information flow in a model of given depth: each layer is one step, so no token reaches farther than the depth.

NIP considers shortest paths to the farthest vertices at any distance. A model of h attention layers takes h steps, each
to the token itself or to one it attends to. Let row b of P be the uniform attention of token b before training:
``1 / (degree + 1)`` for each attended token and for b itself. After h layers, token b receives ``(P^h)[b, a]`` from a.
Three numbers summarize this matrix:

*Reach*: the share of pairs, a not b, for which it is nonzero, that is, with a distance of at most h. Training cannot
extend it.

*Least payload*: its minimum over all pairs, the payload of the worst pair at this depth; zero unless every token
reaches every other.

*Even reach*: the exponential of the entropy of row b of P^h, which is the effective number of tokens that b receives
from, over the number of tokens, mean over b. Compared with reach it discounts weak contributions, as through a hub; it
is 1 for the complete graph.
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
    """The information flow over a pattern within `steps` layers of attention.

    Parameters
    ----------
    steps : int
    reach : float or None
        Share of ordered pairs of different tokens (in a causal pattern: from the earlier to the later one) at a
        distance of at most `steps`; None if there is no pair.
    log10_least_payload : float or None
        log10 of the least payload among these pairs; −inf if some pair is farther apart.
    even_reach : float
        Effective number of tokens received from over the possible number, mean over all tokens, in (0, 1].
    """

    steps: int
    reach: float | None
    log10_least_payload: float | None
    even_reach: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as valid JSON values: infinite numbers become None."""
        least = self.log10_least_payload
        return {**asdict(self), "log10_least_payload": None if least is None or math.isinf(least) else least}


def reach(pattern: Pattern, steps: int, block_size: int = 1) -> Reach:
    """Measure how much information arrives within a number of steps.

    Parameters
    ----------
    pattern : Pattern
    steps : int
        Layers of attention, at least 1.
    block_size : int, default=1
        Tokens per vertex of the pattern.

    Returns
    -------
    Reach

    Raises
    ------
    ValueError
        If `steps` or the block size is not an integer of at least 1.

    Notes
    -----
    Takes O(steps · n · edges) multiplications on the block graph, in batches of bounded memory; causal patterns of
    blocks are lifted to their tokens first.

    Examples
    --------
    In the cube of 8 vertices, 6 of the 7 others are within two steps.

    >>> from nip.graphs import pattern
    >>> two = reach(pattern("hypercube", 8), 2)
    >>> round(two.reach, 4), two.log10_least_payload, round(two.even_reach, 3)
    (0.8571, -inf, 0.841)
    """
    steps = check_int("steps", steps, "reach", minimum=1)
    block_size = check_int("block_size", block_size, "reach", minimum=1)
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
        spread = heard / b  # a block's share is divided equally among its tokens
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
    """The matrix of uniform attention: row b attends equally to itself and its neighbours."""
    n = pattern.n
    adjacency = sparse.csr_array((np.ones(pattern.indices.size), pattern.indices, pattern.indptr), shape=(n, n))
    return sparse.csr_array(
        sparse.diags_array(1.0 / (pattern.degrees + 1.0)) @ (adjacency + sparse.eye_array(n, format="csr"))
    )
