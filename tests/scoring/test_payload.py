from fractions import Fraction
from math import factorial

import networkx as nx
import pytest
from hypothesis import given

from nip.graphs import Pattern, from_networkx, pattern, to_networkx
from nip.scoring.payload import information, payload
from strategies import any_patterns


def by_path_enumeration(p: Pattern):
    """IP, CC and the diameter directly by the definition: networkx lists every shortest path."""
    # Information flows from attended to attending, against the edges i → j "i attends to j".
    flow = to_networkx(p).to_directed().reverse() if not p.symmetric else to_networkx(p)
    pairs = [(a, b) for a in range(p.n) for b in range(p.n) if (a < b if p.causal else a != b)]
    if not all(nx.has_path(flow, a, b) for a, b in pairs):
        return None
    distance = {pair: nx.shortest_path_length(flow, *pair) for pair in pairs}
    diameter = max(distance.values())
    worth = []
    for a, b in pairs:
        if distance[a, b] == diameter:
            total = Fraction(0)
            for route in nx.all_shortest_paths(flow, a, b):
                worth_of_route = Fraction(1)
                for v in route[1:]:
                    worth_of_route /= int(p.degrees[v])
                total += worth_of_route
            worth.append(total)
    return min(worth), Fraction(p.n_edges, p.n) * diameter, diameter


@given(any_patterns(7))
def test_equals_the_enumeration_of_all_shortest_paths(p):
    result = payload(p)
    if p.n == 1:
        assert (result.diameter, result.payload, result.nip) == (0, None, None)
        return
    expected = by_path_enumeration(p)
    if expected is None:
        assert (result.diameter, result.payload, result.nip, result.cost) == (None, 0, 0, None)
    else:
        assert (result.payload, result.cost, result.diameter) == expected
        assert result.nip == expected[0] / expected[1]


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_complete(n):
    assert payload(pattern("softmax", n)).nip == Fraction(1, (n - 1) ** 2)


@pytest.mark.parametrize("k", range(1, 7))
def test_hypercube(k):
    assert payload(pattern("hypercube", 2**k)).nip == Fraction(factorial(k), k ** (k + 2))


@pytest.mark.parametrize("n", [3, 4, 9])
def test_star(n):
    star = payload(from_networkx(nx.star_graph(n - 1)))
    assert (star.payload, star.cost) == (Fraction(1, n - 1), Fraction(4 * (n - 1), n))


@pytest.mark.parametrize("n", [3, 4, 9])
def test_path(n):
    # n − 2 interior vertices of degree 2, an end of degree 1; 2(n − 1)/n neighbours each; n − 1 steps long
    line = payload(from_networkx(nx.path_graph(n)))
    assert (line.payload, line.cost) == (Fraction(1, 2 ** (n - 2)), Fraction(2 * (n - 1) ** 2, n))


@pytest.mark.parametrize("n", [3, 4, 8, 9])
def test_cycle(n):
    k = n // 2
    ways = 2 if n % 2 == 0 else 1
    ring = payload(from_networkx(nx.cycle_graph(n)))
    assert (ring.payload, ring.cost) == (Fraction(ways, 2**k), 2 * k)


@pytest.mark.parametrize(("a", "b"), [(2, 3), (4, 4), (1, 5)])
def test_complete_bipartite(a, b):
    # Two vertices of one side communicate through all of the other side: a · 1/b · 1/a within the side of b
    both = payload(from_networkx(nx.complete_bipartite_graph(a, b)))
    sides = [Fraction(1, other) for side, other in ((b, b), (a, a)) if side > 1]
    assert both.payload == min(sides)
    assert both.cost == Fraction(2 * a * b, a + b) * 2


def test_information_flows_from_attended_to_attending():
    chain = Pattern.from_edges(3, [1, 2], [0, 1])  # 1 attends to 0, 2 to 1
    distance, arrived = information(chain, 0)
    assert distance == {0: 0, 1: 1, 2: 2}
    assert arrived == {0: 1, 1: 1, 2: 1}
    assert information(chain, 2)[0] == {2: 0}
    assert payload(chain).nip == 0


def test_what_arrives_is_a_power_of_the_row_normalized_adjacency():
    p = pattern("longformer", 12)
    graph = nx.to_numpy_array(to_networkx(p))
    walk = graph / graph.sum(axis=1, keepdims=True)
    for a in range(p.n):
        distance, arrived = information(p, a)
        for b in range(p.n):
            power = 1.0
            matrix = walk
            for _ in range(distance[b] - 1):
                matrix = matrix @ walk
            power = matrix[b, a] if b != a else 1.0
            assert float(arrived[b]) == pytest.approx(power)
