"""An order of the vertices in which consecutive ones are adjacent, wherever one is found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import Pattern

# Paths grown from the start before the longest is taken, and rotations per vertex of each (ln n is what is expected).
_PATHS = 8
_ROTATIONS = 60


def path_order(pattern: Pattern, start: int = 0) -> NDArray[np.int64]:
    """The vertices along a Hamiltonian path from `start`, for `nip.graphs.permute`: a window becomes part of the graph.

    A path grows to an unvisited neighbour of its end; where there is none, the end is exchanged: an edge from the end
    back to a vertex of the path replaces the edge after that vertex, and what follows is run through backwards (Pósa's
    rotation). Which edge is drawn from a generator of its own, so that the same graph always gets the same order.

    Parameters
    ----------
    pattern : Pattern
        Undirected.
    start : int, default=0
        The first vertex. In a bipartite graph of unequal sides it must be on the larger one.

    Returns
    -------
    ndarray of shape (n,)
        Every vertex once. Where no Hamiltonian path was found: the longest path found, then the other vertices.

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
