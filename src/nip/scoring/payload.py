"""Normalized Information Payload by its definition: exact fractions, short and slow, for comparison with the paper.

Information flows along the edges: a vertex receives from the vertices it attends to, and gives each of them an equal
share of its attention, ``1 / degree``. Along a path ``a = v0, v1, …, vk = b`` the payload from a to b is the product of
the shares of all vertices but the first; *the information payload* ``I(a, b)`` is the sum of these products over all
shortest paths from a to b. A graph is scored by its worst farthest pair, divided by its communication cost:

    IP(G)  = min I(a, b) over the pairs at the greatest distance κ
    CC(G)  = mean degree · κ                                         (communication cost)
    NIP(G) = IP(G) / CC(G)

This is the oracle that the fast computation (`nip.scoring.fast`) is tested against. Source: "What Dense Graph Do You
Need for Self-Attention?", ICML 2022, arXiv 2205.14014.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

from nip.graphs.pattern import Pattern


@dataclass(frozen=True)
class Payload:
    """The exact score of a graph.

    Parameters
    ----------
    diameter : int or None
        The greatest distance κ between two vertices; None if some vertex cannot reach another.
    payload : Fraction or None
        IP(G); 0 if the graph is disconnected, None if there is no pair (one vertex).
    cost : Fraction or None
        CC(G) = mean degree · κ; None if disconnected.
    nip : Fraction or None
        IP(G) / CC(G); 0 if disconnected, None for one vertex.
    worst_pair : (int, int) or None
        The first farthest pair (a, b) of least payload; information flows from a to b.
    """

    diameter: int | None
    payload: Fraction | None
    cost: Fraction | None
    nip: Fraction | None
    worst_pair: tuple[int, int] | None


def information(pattern: Pattern, source: int) -> tuple[dict[int, int], dict[int, Fraction]]:
    """The distance from `source` to every vertex that it reaches, and the payload I(source, ·) there.

    With P = D⁻¹A, whose row b is the attention of b, ``I(a, b) = (P^k)[b, a]`` for k = dist(a, b): the walks of that
    length are exactly the shortest paths. Instead of powers of a matrix, this is a breadth-first search; it takes
    O(edges) operations on fractions.
    """
    attending = defaultdict(list)
    for reader in range(pattern.n):
        for attended in pattern.row(reader).tolist():
            attending[attended].append(reader)
    distance = {source: 0}
    payload = {source: Fraction(1)}
    level = [source]
    while level:
        arriving: dict[int, Fraction] = defaultdict(Fraction)
        for vertex in level:
            for reader in attending[vertex]:
                if reader not in distance:
                    arriving[reader] += payload[vertex] / int(pattern.degrees[reader])
        for reader in arriving:
            distance[reader] = distance[level[0]] + 1
        payload.update(arriving)
        level = list(arriving)
    return distance, payload


def payload(pattern: Pattern) -> Payload:
    """Score a graph by the definition, in O(vertices · edges) operations on exact fractions.

    Parameters
    ----------
    pattern : Pattern
        Its vertices are the graph's vertices; for token-level scores pass ``lift(pattern, block_size)``. If it is
        causal, only pairs with b after a count, since a does not attend to b.

    Returns
    -------
    Payload

    Examples
    --------
    The 8-vertex cube: 3! shortest paths between opposite corners, each worth 1/3³, so IP = 6/27; CC = 3 · 3.

    >>> from nip.graphs import pattern
    >>> cube = payload(pattern("hypercube", 8))
    >>> cube.payload, cube.cost, cube.nip
    (Fraction(2, 9), Fraction(9, 1), Fraction(2, 81))
    """
    n = pattern.n
    if n == 1:
        return Payload(diameter=0, payload=None, cost=Fraction(0), nip=None, worst_pair=None)
    heard = [information(pattern, source) for source in range(n)]
    pairs = [(a, b) for a in range(n) for b in range(n) if (a < b if pattern.causal else a != b)]
    if any(b not in heard[a][0] for a, b in pairs):
        return Payload(diameter=None, payload=Fraction(0), cost=None, nip=Fraction(0), worst_pair=None)
    diameter = max(heard[a][0][b] for a, b in pairs)
    farthest = [(a, b) for a, b in pairs if heard[a][0][b] == diameter]
    worst = min(farthest, key=lambda pair: heard[pair[0]][1][pair[1]])
    least = heard[worst[0]][1][worst[1]]
    cost = Fraction(pattern.n_edges, n) * diameter
    return Payload(diameter, least, cost, least / cost, worst)
