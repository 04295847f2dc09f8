"""Bottleneck-discounted NIP: a vertex that carries more than the mean load passes on less.

Plain NIP counts every farthest pair as if no other pair used the graph. In a star, for example, every pair communicates
through one hub, which plain NIP does not penalize. Here all farthest pairs communicate at once:

1. *Load.* Every farthest pair (a, b) sends one unit of flow from a to b, split over its shortest paths in proportion to
   their payload. The load of a vertex is the flow through it as an interior vertex, over all farthest pairs.
2. *Congestion.* ``c(v) = max(1, load(v) / mean load)``, the mean over all vertices; 1 if there is no load at all.
3. *Discount.* Every interior vertex's factor 1/degree is divided by c(v); ends are not discounted. The bottleneck
   payload is the minimum of the discounted payload over the farthest pairs, and the bottleneck NIP is that over the
   same cost CC.

It never exceeds plain NIP, equals it if all vertices carry the same load, as on vertex-transitive graphs, or if the
diameter is 1, and can only decrease as a vertex's congestion increases. `docs/score.md` derives these properties.

The functions here follow the definition in exact fractions and are the oracle of `nip.scoring.fast`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import Pattern
from nip.scoring.payload import information, payload


def congestion(load: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """The factor max(1, load / mean) by which each vertex's share is divided; 1 if the mean is 0."""
    return np.maximum(1.0, load / mean) if mean > 0 else np.ones_like(load)


def exact_loads(pattern: Pattern) -> list[Fraction]:
    """The flow through every vertex as an interior vertex, over all farthest pairs; zeros for a disconnected graph."""
    load = [Fraction(0)] * pattern.n
    diameter = payload(pattern).diameter
    if not diameter:
        return load
    for source in range(pattern.n):
        distance, arrived = information(pattern, source)
        flow: dict[int, Fraction] = defaultdict(Fraction)
        for vertex in sorted(distance, key=lambda v: -distance[v]):
            if distance[vertex] == diameter:
                flow[vertex] = Fraction(1)
            elif distance[vertex] > 0:
                load[vertex] += flow[vertex]
            if not flow[vertex] or distance[vertex] == 0:
                continue
            # The flow came from the attended vertices, in proportion to the payload that each of them passed on.
            for nearer in pattern.row(vertex).tolist():
                if distance.get(nearer) == distance[vertex] - 1:
                    sent = arrived[nearer] / int(pattern.degrees[vertex])
                    flow[nearer] += flow[vertex] * sent / arrived[vertex]
    return load


def exact_congestion(load: Sequence[Fraction]) -> list[Fraction]:
    """The factor max(1, load / mean load) of every vertex; ones if there is no load."""
    mean = sum(load, Fraction(0)) / len(load)
    return [max(Fraction(1), value / mean) if mean else Fraction(1) for value in load]


def discounted_payload(pattern: Pattern, factors: Sequence[Fraction]) -> Fraction | None:
    """IP(G) with every interior vertex's share divided by its factor; None for one vertex, 0 if disconnected.

    Parameters
    ----------
    pattern : Pattern
    factors : sequence of n fractions
        The congestion of every vertex, at least 1; all ones give the plain payload.
    """
    plain = payload(pattern)
    if not plain.diameter:
        return plain.payload
    least: Fraction | None = None
    for source in range(pattern.n):
        distance, _ = information(pattern, source)
        arrived = {source: Fraction(1)}
        for vertex in sorted(distance, key=lambda v: distance[v]):
            if distance[vertex] == 0:
                continue
            nearer = [v for v in pattern.row(vertex).tolist() if distance.get(v) == distance[vertex] - 1]
            # The nearer vertices are interior and therefore discounted; the source is not.
            passed = sum((arrived[v] / (factors[v] if v != source else 1) for v in nearer), Fraction(0))
            arrived[vertex] = passed / int(pattern.degrees[vertex])
            if distance[vertex] == plain.diameter and (least is None or arrived[vertex] < least):
                least = arrived[vertex]
    return least


def exact_bottleneck_nip(pattern: Pattern) -> Fraction | None:
    """The bottleneck-discounted NIP by the definition; None for one vertex, 0 for a disconnected graph.

    Examples
    --------
    In a star of 8 the hub carries all the flow, eight times the mean: the score is discounted to an eighth.

    >>> from nip.graphs import pattern
    >>> star = pattern("global", 8)
    >>> payload(star).nip / exact_bottleneck_nip(star)
    Fraction(8, 1)
    """
    plain = payload(pattern)
    if not plain.cost:
        return plain.nip
    least = discounted_payload(pattern, exact_congestion(exact_loads(pattern)))
    return None if least is None else least / plain.cost
