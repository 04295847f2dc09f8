import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.graphs import Pattern, expander, pattern, to_mask, to_networkx


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 2**64))
def test_regular_simple_undirected_connected(n, degree, seed):
    if degree >= n or n * degree % 2 or degree < min(n - 1, 2):
        with pytest.raises(ValueError, match="no other connected regular graph exists"):
            expander(n, degree=degree, seed=seed)
        return
    p = expander(n, degree=degree, seed=seed)
    assert p.degrees.tolist() == [degree] * n  # Pattern itself allows neither loops nor repeated edges
    assert p.symmetric
    assert nx.is_connected(to_networkx(p).to_undirected())
    assert dict(p.parameters) == {"degree": degree, "seed": seed}


@pytest.mark.parametrize(
    ("n", "degree"), [(2, 1), (3, 2), (5, 4), (7, 4), (64, 6), (100, 7), (101, 8), (128, 7), (129, 8)]
)
def test_the_degree_of_the_hypercube_unless_given(n, degree):
    assert expander(n).parameters["degree"] == degree
    assert expander(n) == expander(n, degree=degree, seed=0)


def test_the_graph_of_a_seed_never_changes():
    # Fixed values: a change here would silently change every graph that a checkpoint names.
    assert [expander(128).checksum[:16], expander(20, degree=15, seed=3).checksum[:16]] == CHECKSUMS


CHECKSUMS = ["1b5a51cf8a860161", "0a9a89222d929e2b"]


def test_seeds_differ():
    assert len({expander(40, seed=seed) for seed in range(20)}) == 20


@pytest.mark.parametrize(("n", "degree"), [(128, 7), (400, 4), (300, 3)])
def test_the_second_eigenvalue_is_nearly_as_small_as_can_be(n, degree):
    for seed in range(5):
        adjacency = to_mask(expander(n, degree=degree, seed=seed)).astype(float)
        np.fill_diagonal(adjacency, 0)
        values = np.sort(np.abs(np.linalg.eigvalsh(adjacency)))
        assert values[-1] == pytest.approx(degree)
        assert values[-2] < 1.12 * 2 * np.sqrt(degree - 1)


def test_edges_are_drawn_evenly():
    # every pair of 8 vertices is adjacent in 3/7 of the cubic graphs; standard deviation over 1,400 draws is 0.0132
    share = sum(to_mask(expander(8, degree=3, seed=seed)) for seed in range(1400)) / 1400
    off_diagonal = share[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal - 3 / 7).max() < 4.5 * 0.0132


def test_rebuilt_from_its_name_and_saved(tmp_path):
    p = pattern("expander", 50, seed=4)
    assert pattern("expander", 50, **p.parameters) == p
    assert Pattern.load(p.save(tmp_path / "graph.npz")) == p
