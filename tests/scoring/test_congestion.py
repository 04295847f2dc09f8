import math
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import Pattern, from_networkx, pattern, to_networkx
from nip.scoring import score
from nip.scoring.congestion import (
    congestion,
    discounted_payload,
    exact_bottleneck_nip,
    exact_congestion,
    exact_loads,
)
from nip.scoring.payload import payload
from strategies import any_patterns, connected_patterns


def test_the_star_keeps_a_quarter():
    assert score(pattern("global", 2048)).nip_relative == pytest.approx(512)
    assert score(pattern("global", 2048)).bottleneck_nip_relative == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_star_by_hand(n):
    star = pattern("global", n)
    # Every ordered pair of leaves sends its unit through the hub, and nothing passes through a leaf.
    assert exact_loads(star) == [(n - 1) * (n - 2)] + [0] * (n - 1)
    assert exact_congestion(exact_loads(star))[0] == n
    assert exact_bottleneck_nip(star) == payload(star).nip / n


VERTEX_TRANSITIVE = [
    nx.complete_graph(6),
    nx.cycle_graph(7),
    nx.cycle_graph(8),
    nx.hypercube_graph(3),
    nx.petersen_graph(),
    nx.complete_bipartite_graph(4, 4),
    nx.circulant_graph(9, [1, 3]),
    nx.icosahedral_graph(),
    nx.dodecahedral_graph(),
]


@pytest.mark.parametrize("graph", VERTEX_TRANSITIVE)
@pytest.mark.parametrize("block_size", [1, 4])
def test_equals_plain_nip_on_vertex_transitive_graphs(graph, block_size):
    p = from_networkx(graph)
    s = score(p, block_size)
    assert s.bottleneck_nip == pytest.approx(s.nip, rel=1e-12)
    assert exact_bottleneck_nip(p) == payload(p).nip


def brute_force_loads(p):
    """Sum the flow path by path: each shortest path of a farthest pair carries its share of the pair's payload."""
    flow_graph = nx.DiGraph((int(j), i) for i in range(p.n) for j in p.row(i))
    flow_graph.add_nodes_from(range(p.n))
    loads = [Fraction(0)] * p.n
    diameter = payload(p).diameter
    for a in range(p.n):
        for b in range(p.n):
            if a == b or not nx.has_path(flow_graph, a, b) or nx.shortest_path_length(flow_graph, a, b) != diameter:
                continue
            routes = list(nx.all_shortest_paths(flow_graph, a, b))
            worth = [
                math.prod((Fraction(1, int(p.degrees[v])) for v in route[1:]), start=Fraction(1)) for route in routes
            ]
            for route, value in zip(routes, worth, strict=True):
                for v in route[1:-1]:
                    loads[v] += value / sum(worth)
    return loads


@given(any_patterns(7))
def test_loads_equal_the_enumeration_of_paths(p):
    assert exact_loads(p) == (brute_force_loads(p) if payload(p).diameter else [0] * p.n)


@given(any_patterns(7))
def test_never_above_the_plain_score(p):
    discounted, plain = exact_bottleneck_nip(p), payload(p).nip
    assert (discounted is None) == (plain is None)
    if plain is not None:
        assert discounted <= plain
        assert (discounted == 0) == (plain == 0)


@given(connected_patterns(7), st.data())
def test_monotone_in_load(p, data):
    """A higher load on one vertex at the same mean increases its factor, and the payload can only decrease."""
    loads = exact_loads(p)
    factors = exact_congestion(loads)
    v = data.draw(st.integers(0, p.n - 1))
    more = [factor + data.draw(st.integers(0, 5)) * (i == v) for i, factor in enumerate(factors)]
    assert discounted_payload(p, more) <= discounted_payload(p, factors)
    assert discounted_payload(p, [Fraction(1)] * p.n) == payload(p).payload


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_both_forms_of_the_factor_agree(load):
    exact = exact_congestion([Fraction(x) for x in load])
    mean = sum(load) / len(load)
    assert congestion(np.array(load, dtype=float), mean) == pytest.approx([float(f) for f in exact])
    assert min(exact) >= 1


def test_the_ends_of_a_path_are_not_discounted():
    # 0 and 3 carry more than the mean and are at the same time ends of farthest pairs
    edges = [(2, 0), (2, 1), (3, 0), (3, 2), (4, 0), (4, 1), (4, 3), (5, 0), (5, 1), (5, 3)]
    p = Pattern.from_edges(6, *zip(*edges, strict=True), symmetric=True)
    factors = exact_congestion(exact_loads(p))
    assert factors == [Fraction(27, 25), Fraction(36, 25), 1, Fraction(27, 25), 1, 1]
    graph = to_networkx(p)
    worth = []
    for a in range(6):
        for b in range(6):
            if a != b and not graph.has_edge(a, b):  # the farthest pairs: two steps apart
                through = set(graph[a]) & set(graph[b])
                passed = sum((Fraction(1, graph.degree[v]) / factors[v] for v in through), Fraction(0))
                worth.append(passed / graph.degree[b])
    assert discounted_payload(p, factors) == min(worth)
    assert score(p).bottleneck_nip == pytest.approx(float(min(worth) / payload(p).cost))


def test_a_hub_is_demoted_and_the_cube_is_not():
    star, cube = score(pattern("global", 128), 16), score(pattern("hypercube", 128), 16)
    assert star.nip_relative > 11
    assert cube.nip_relative < 1
    assert star.bottleneck_nip_relative < cube.bottleneck_nip_relative == pytest.approx(cube.nip_relative)
