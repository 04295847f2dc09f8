import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levi import generalized_quadrangle as coordinates_quadrangle
from levi import projective_plane as coordinates_plane
from scipy.sparse.csgraph import shortest_path

import nip
from nip.graphs import Pattern, generalized_quadrangle, pattern, projective_plane, to_networkx, to_scipy
from nip.graphs.polygons import SMALLEST, native_size, plane_lines, quadrangle_lines

ORDERS = [2, 3, 4, 5, 7, 8, 9]
MADE = {"projective_plane": projective_plane, "generalized_quadrangle": generalized_quadrangle}
DIAMETER = {"projective_plane": 3, "generalized_quadrangle": 4}


def diameter(p):
    return shortest_path(to_scipy(p), unweighted=True).max()


def consecutive(p):
    return all(i + 1 in p.row(i) for i in range(p.n - 1))


@pytest.mark.parametrize("q", ORDERS)
def test_two_points_of_the_plane_are_on_one_line_and_two_lines_meet_in_one_point(q):
    on = np.zeros((q * q + q + 1, q * q + q + 1), dtype=int)
    np.put_along_axis(on, plane_lines(q), 1, axis=1)
    expected = np.ones_like(on) + q * np.eye(len(on), dtype=int)
    assert np.array_equal(on @ on.T, expected)
    assert np.array_equal(on.T @ on, expected)


@pytest.mark.parametrize("q", [2, 3, 4, 5])
def test_every_point_off_a_line_of_the_quadrangle_is_joined_to_one_point_on_it(q):
    v = (q + 1) * (q * q + 1)
    on = np.zeros((v, v), dtype=int)
    np.put_along_axis(on, quadrangle_lines(q), 1, axis=1)
    assert (on.sum(0) == q + 1).all() and (on.sum(1) == q + 1).all()
    meeting = on @ on.T
    assert meeting[~np.eye(v, dtype=bool)].max() == 1  # two lines meet in at most one point
    # flags (point on the line, line through the point off it) that lead from a point to a line
    assert np.array_equal((meeting - np.diag(np.diag(meeting))) @ on, np.where(on == 1, q, 1))


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("q", ORDERS[:5])
def test_the_geometry_itself_is_regular_bipartite_and_of_girth_twice_the_diameter(name, q):
    p = MADE[name](native_size(name, q))
    graph = to_networkx(p).to_undirected()
    graph.remove_edges_from(nx.selfloop_edges(graph))
    assert dict(p.parameters) == {"order": q}
    assert set(p.degrees.tolist()) == {q + 1}
    assert nx.is_bipartite(graph)
    assert nx.girth(graph) == 2 * DIAMETER[name]
    assert diameter(p) == DIAMETER[name]
    assert consecutive(p)


@pytest.mark.parametrize(
    ("name", "q", "edges"),
    [
        ("projective_plane", 2, nx.heawood_graph().edges),
        ("projective_plane", 2, coordinates_plane(2)),
        ("generalized_quadrangle", 2, nx.LCF_graph(30, [-13, -9, 7, -7, 9, 13], 5).edges),
        ("generalized_quadrangle", 2, coordinates_quadrangle(2)),
    ],
)
def test_the_known_graphs_of_order_2(name, q, edges):
    made = to_networkx(MADE[name](native_size(name, q))).to_undirected()
    made.remove_edges_from(nx.selfloop_edges(made))
    assert nx.is_isomorphic(made, nx.Graph(list(edges)))


@pytest.mark.parametrize(
    ("name", "n", "relative"),
    [
        ("generalized_quadrangle", 30, 2.5957),
        ("generalized_quadrangle", 80, 6.0947),
        ("generalized_quadrangle", 170, 11.4244),
        ("generalized_quadrangle", 800, 38.9649),
        ("projective_plane", 114, 8.3132),
        ("projective_plane", 146, 9.6136),
        ("projective_plane", 366, 16.1838),
    ],
)
def test_scores_of_the_geometries(name, n, relative):
    result = nip.score(pattern(name, n))
    assert result.nip_relative == pytest.approx(relative, abs=5e-5)
    k, d = result.parameters["order"] + 1, DIAMETER[name]
    assert result.nip == pytest.approx(1 / (d * k**d), rel=1e-12)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("n", [*range(14, 130), 256, 512])
def test_every_size_is_connected_no_wider_and_keeps_neighbours_adjacent(name, n):
    if n < SMALLEST[name]:
        with pytest.raises(ValueError, match=f"parameter of {name} must be an integer of at least {SMALLEST[name]}"):
            pattern(name, n)
        return
    p = pattern(name, n)
    assert p.n == n
    assert p.symmetric
    assert diameter(p) <= DIAMETER[name]
    assert consecutive(p)
    assert nx.is_bipartite(nx.Graph(list(zip(p.edge_rows.tolist(), p.indices.tolist(), strict=True))))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(list(MADE)), st.sampled_from([2, 3, 4, 5]), st.floats(0.5, 2.5))
def test_any_size_from_half_on_can_be_asked_of_an_order(name, q, share):
    n = max(SMALLEST[name], round(share * native_size(name, q)))
    p = pattern(name, n, order=q)
    assert p.n == n
    assert dict(p.parameters) == {"order": q}
    # merging at most doubles a degree, twins multiply it by at most their number
    assert p.degrees.min() >= 2
    assert diameter(p) <= DIAMETER[name]


def test_doubling_everything_keeps_the_relative_score_but_for_the_own_vertex():
    whole, twice = nip.score(projective_plane(62)), nip.score(projective_plane(124, order=5))
    assert (twice.mean_degree, twice.diameter) == (12, 3)
    # four times the paths, an eighth of the share per path, twice the cost: a quarter of the score
    assert twice.nip == pytest.approx(whole.nip / 4)


@pytest.mark.parametrize(
    ("name", "n", "order", "least"),
    [  # comments: the score of the first n vertices of the geometry, in an order that keeps neighbours together
        ("projective_plane", 64, 5, 4.3),  # 1.7: the hypercube
        ("projective_plane", 128, 7, 6.8),  # 5.5
        ("projective_plane", 256, 11, 11.5),  # 8.4
        ("projective_plane", 512, 16, 15.0),
        ("generalized_quadrangle", 64, 3, 2.3),  # 1.1 to 1.3
        ("generalized_quadrangle", 128, 3, 3.2),  # 0.6 to 0.8
        ("generalized_quadrangle", 256, 4, 5.8),  # 4.4 to 4.7
        ("generalized_quadrangle", 512, 5, 8.9),
        ("generalized_quadrangle", 1024, 7, 24.0),
    ],
)
def test_powers_of_two(name, n, order, least):
    result = nip.score(pattern(name, n))
    assert result.parameters == {"order": order}
    assert result.nip_relative > max(least, nip.score(pattern("hypercube", n)).nip_relative)
    whole = nip.score(pattern(name, native_size(name, order)))
    assert result.native_n_vertices == whole.n_vertices == whole.native_n_vertices
    assert result.native_nip_relative == pytest.approx(whole.nip_relative, rel=1e-12)


@pytest.mark.parametrize("name", MADE)
def test_the_native_score_is_that_of_tokens_too(name):
    p = pattern(name, 80)
    of_tokens = nip.score(p, 16)
    whole = nip.score(pattern(name, of_tokens.native_n_vertices), 16)
    assert of_tokens.native_nip_relative == pytest.approx(whole.nip_relative, rel=1e-12)
    assert nip.score(pattern(name, 80, causal=True)).native_n_vertices is None
    assert nip.score(pattern("hypercube", 80)).native_n_vertices is None


def test_the_graph_of_a_size_never_changes():
    # Fixed values: a change here would silently change every graph that a checkpoint names.
    graphs = [projective_plane(n) for n in (62, 64, 128, 256)] + [generalized_quadrangle(n) for n in (64, 80, 128, 256)]
    assert [p.checksum[:8] for p in graphs] == CHECKSUMS


CHECKSUMS = ["1d31bbdf", "af3373fa", "561d2fd4", "bec6c3f6", "0a311d85", "e090fcd8", "30002661", "c3704be6"]


@pytest.mark.parametrize("name", MADE)
def test_rebuilt_from_its_name_and_saved(name, tmp_path):
    p = pattern(name, 100)
    assert pattern(name, 100, **p.parameters) == p
    assert Pattern.load(p.save(tmp_path / "graph.npz")) == p


@pytest.mark.parametrize(
    ("n", "order", "says"),
    [
        (64, 6, "'order' parameter of projective_plane must be a prime power. Got 6"),
        (64, 1, "'order' parameter of projective_plane must be an integer of at least 2. Got 1"),
        (64, 7.0, "'order' parameter of projective_plane must be an integer"),
        (64, 11, "order 11 has 266 vertices; n must be at least half. Got n=64"),
        (64, 10**18 + 9, "n must be at least half"),
        (13, None, "'n' parameter of projective_plane must be an integer of at least 14. Got 13"),
    ],
)
def test_refused(n, order, says):
    with pytest.raises(ValueError, match=says):
        projective_plane(n, order=order)


def test_prime_powers_without_galois_name_the_extra(monkeypatch):
    from nip.graphs.finite_fields import field

    field.cache_clear()
    monkeypatch.setitem(sys.modules, "galois", None)
    with pytest.raises(ImportError, match=r"order 8 = 2\^3 needs the library galois: pip install 'nip\[fast\]'"):
        projective_plane(146)
    assert projective_plane(114).n == 114
