import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levi import generalized_quadrangle, projective_plane, write_edge_list

from nip.graphs import from_networkx, lift, pattern, read_graph, to_networkx
from nip.scoring import score, sweep
from nip.scoring.congestion import exact_bottleneck_nip
from nip.scoring.fast import token_payload
from nip.scoring.payload import payload
from nip.scoring.sweep import COMPILED
from strategies import any_patterns

ENGINES = [False, True] if COMPILED else [False]


def log10(fraction):
    return math.log10(fraction.numerator) - math.log10(fraction.denominator) if fraction else -math.inf


@pytest.mark.parametrize("compiled", ENGINES)
@settings(max_examples=150)
@given(p=any_patterns(6), b=st.integers(1, 3))
def test_equals_the_definition_on_the_token_graph(p, b, compiled):
    tokens = lift(p, b)
    exact = payload(tokens)
    fast = token_payload(p, b, compiled=compiled)
    assert fast.mean_degree == pytest.approx(tokens.mean_degree)
    assert fast.max_degree == tokens.degrees.max()
    if exact.payload is None:
        assert fast.log10_payload is None
        return
    assert fast.diameter == (math.inf if exact.diameter is None else exact.diameter)
    assert fast.log10_payload == pytest.approx(log10(exact.payload), abs=1e-12)
    bottleneck = exact_bottleneck_nip(tokens)
    cost = log10(exact.cost) if exact.cost else 0.0
    assert fast.log10_bottleneck_payload - cost == pytest.approx(log10(bottleneck), abs=1e-11)


@pytest.mark.parametrize("compiled", ENGINES)
@given(p=any_patterns(7))
def test_worst_pair_and_path_are_a_farthest_pair_of_least_payload(p, compiled):
    fast = token_payload(p, 1, compiled=compiled)
    exact = payload(p)
    if p.n == 1:
        assert fast.worst_pair is None
        return
    a, b = fast.worst_pair
    if exact.diameter is None:
        assert fast.worst_path is None
        assert not nx.has_path(to_networkx(p), b, a)
        return
    assert fast.worst_path[0] == a
    assert fast.worst_path[-1] == b
    assert len(fast.worst_path) == exact.diameter + 1
    # each attends to the one before it: information flows along the path
    assert all(u in p.row(v) for u, v in zip(fast.worst_path, fast.worst_path[1:], strict=False))
    from nip.scoring.payload import information

    assert information(p, a)[1][b] == exact.payload


@pytest.mark.skipif(not COMPILED, reason="numba is not installed, so there is one engine only")
@pytest.mark.parametrize("name", ["hypercube", "bigbird", "longformer", "local", "local+random"])
@pytest.mark.parametrize("causal", [False, True])
def test_both_engines_agree_at_scale(name, causal):
    p = pattern(name, 300, causal=causal)
    compiled, vectorized = (token_payload(p, 16, compiled=c) for c in (True, False))
    assert compiled.log10_payload == pytest.approx(vectorized.log10_payload, rel=1e-11)
    assert compiled.log10_bottleneck_payload == pytest.approx(vectorized.log10_bottleneck_payload, rel=1e-11)
    assert (compiled.diameter, compiled.worst_pair) == (vectorized.diameter, vectorized.worst_pair)


def test_hypercubes_in_closed_form():
    for k in range(1, 13):
        s = score(pattern("hypercube", 2**k))
        n = 2**k
        assert s.nip_relative == pytest.approx(math.factorial(k) * (n - 1) ** 2 / k ** (k + 2), rel=1e-10)
        assert s.bottleneck_nip_relative == pytest.approx(s.nip_relative, rel=1e-9)
        assert s.diameter == k


@pytest.mark.parametrize(("n", "relative"), [(256, 2.44), (512, 3.02), (1024, 3.798), (2048, 4.8449), (128, 2.014)])
def test_hypercube_figures_of_the_paper(n, relative):
    assert score(pattern("hypercube", n)).nip_relative == pytest.approx(relative, abs=0.005)


@pytest.mark.parametrize(
    ("name", "n", "relative"),
    [("hypercube", 128, 0.748), ("hypercube", 64, 0.634), ("hypercube", 16, 0.519), ("global", 128, 11.3)],
)
def test_token_level_figures(name, n, relative):
    assert score(pattern(name, n), 16).nip_relative == pytest.approx(relative, abs=0.0006 if relative < 1 else 0.05)


@pytest.mark.parametrize(
    ("edges", "n", "relative"),
    [
        (projective_plane(7), 114, 8.3132),
        (projective_plane(13), 366, 16.1838),
        (generalized_quadrangle(2), 30, 2.5957),
        (generalized_quadrangle(3), 80, 6.0947),
        (generalized_quadrangle(5), 312, 18.6576),
        (generalized_quadrangle(7), 800, 38.9649),
    ],
)
def test_levi_graphs_from_files(tmp_path, edges, n, relative):
    p = read_graph(write_edge_list(edges, tmp_path / "levi.txt"))
    assert p.n == n
    assert score(p).nip_relative == pytest.approx(relative, abs=5e-5)


def test_a_levi_graph_lifted_to_tokens(tmp_path):
    p = read_graph(write_edge_list(projective_plane(7), tmp_path / "levi.txt"))
    assert score(p, 16).nip_relative == pytest.approx(5.4255, abs=5e-5)


@pytest.mark.parametrize("compiled", ENGINES)
def test_very_small_payloads_do_not_vanish(compiled):
    n = 800 if not compiled else 4096
    line = token_payload(from_networkx(nx.path_graph(n)), compiled=compiled)
    assert line.diameter == n - 1
    assert line.log10_payload == pytest.approx(-(n - 2) * math.log10(2), rel=1e-12)


@pytest.mark.parametrize("compiled", ENGINES)
def test_vertices_of_one_level_may_differ_by_more_than_the_range_of_a_double(compiled):
    # Two arms of 400 vertices from one root, one of them with many leaves: 2^-400 against 12^-400.
    arm = 400 if compiled else 100  # the vectorized engine always uses logarithms
    graph = nx.Graph()
    nx.add_path(graph, [0, *range(1, arm + 1)])
    nx.add_path(graph, [0, *range(arm + 1, 2 * arm + 1)])
    leaf = 2 * arm + 1
    for v in range(arm + 1, 2 * arm):
        for _ in range(10):
            graph.add_edge(v, leaf)
            leaf += 1
    p = from_networkx(graph)
    exact = payload_between(p, arm, 2 * arm)
    fast = token_payload(p, compiled=compiled)
    assert fast.diameter == 2 * arm
    assert fast.log10_payload == pytest.approx(min(exact), rel=1e-11)


@pytest.mark.parametrize("bristled_first", [False, True])
def test_contributions_of_very_different_size_meet(bristled_first):
    # A ring of two arms of 200 vertices, one of them with many leaves: 2^-199 and 12^-199 meet opposite the target.
    half = 200
    ring = nx.cycle_graph(2 * half)
    arm = range(1, half) if bristled_first else range(half + 1, 2 * half)
    for v in arm:
        ring.add_edges_from((v, (v, leaf)) for leaf in range(10))
    p = from_networkx(nx.convert_node_labels_to_integers(ring, ordering="default"))
    arrays = np.empty(p.n, np.int64), (np.empty(p.n), np.empty(p.n, np.int64)), np.empty(p.n, np.int64)
    distance, (mantissa, scale), _ = arrays
    sweep._walk((p.indptr, p.indices), 1 / p.degrees, 0, *arrays)
    assert distance[half] == half
    assert math.log2(mantissa[half]) + 512 * scale[half] == pytest.approx(-(half - 1), rel=1e-12)


def payload_between(p, a, b):
    """log10 of the payload each way along the only path between two ends."""
    route = nx.shortest_path(to_networkx(p), a, b)
    logs = [-math.log10(p.degrees[v]) for v in route]
    return sum(logs[1:]), sum(logs[:-1])
