"""Hamiltonian paths: orders of the vertices in which consecutive ones are adjacent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import Pattern

# Paths grown from the start before the longest is returned, and rotations per vertex of each (about ln n are expected).
_PATHS = 8
_ROTATIONS = 60


def path_order(pattern: Pattern, start: int = 0) -> NDArray[np.int64]:
    """Order the vertices along a Hamiltonian path from `start`, for `nip.graphs.permute`.

    The permuted graph contains the edges between consecutive positions. A path grows to an unvisited neighbour of its
    end. If there is none, an edge from the end back to a vertex of the path replaces the edge after that vertex, and
    the rest of the path is reversed (Pósa's rotation). The choices come from a separate generator with fixed seeds, so
    the same graph always gets the same order.

    Parameters
    ----------
    pattern : Pattern
        Undirected.
    start : int, default=0
        The first vertex. In a bipartite graph with sides of unequal size it must be on the larger one.

    Returns
    -------
    ndarray of shape (n,)
        Every vertex once. If no Hamiltonian path was found: the longest path found, then the other vertices.

    References
    ----------
    .. [1] L. Pósa, "Hamiltonian circuits in random graphs", Discrete Mathematics 14 (1976).

    Examples
    --------
    >>> from nip.graphs import from_networkx
    >>> import networkx as nx
    >>> petersen = from_networkx(nx.petersen_graph())
    >>> order = path_order(petersen)
    >>> all(j in petersen.row(i) for i, j in zip(order, order[1:]))
    True
    """
    longest = np.array([start])
    for seed in range(_PATHS):
        path = _grow(pattern, start, seed)
        if path.size > longest.size:
            longest = path
        if path.size == pattern.n:
            break
    return np.concatenate([longest, np.setdiff1d(np.arange(pattern.n), longest)])


def _grow(pattern: Pattern, start: int, seed: int) -> NDArray[np.int64]:
    n = pattern.n
    rows = [pattern.row(i).tolist() for i in range(n)]
    generator = np.random.PCG64(seed)
    place = np.full(n, -1)
    path = np.empty(n, dtype=np.int64)
    place[start], path[0] = 0, start
    length, end = 1, start
    budget = _ROTATIONS * n
    bits: list[int] = []
    while length < n and budget > 0:
        if not bits:
            bits = generator.random_raw(4096).tolist()
        draw = bits.pop()
        fresh = [j for j in rows[end] if place[j] < 0]
        if fresh:
            end = fresh[draw % len(fresh)]
            place[end], path[length] = length, end
            length += 1
            continue
        budget -= 1
        if not rows[end]:
            break
        turn = int(place[rows[end][draw % len(rows[end])]]) + 1
        path[turn:length] = path[turn:length][::-1].copy()
        place[path[turn:length]] = np.arange(turn, length)
        end = int(path[length - 1])
    return path[:length]
