import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given

from nip.graphs import (
    from_mask,
    from_networkx,
    from_scipy,
    read_graph,
    to_mask,
    to_networkx,
    to_scipy,
    write_graph,
)
from strategies import custom_patterns


@pytest.mark.filterwarnings("ignore::nip.graphs.GraphFileWarning")
@given(custom_patterns())
def test_there_and_back(tmp_path_factory, p):
    assert from_mask(to_mask(p)) == p
    assert from_scipy(to_scipy(p)) == p
    assert from_networkx(to_networkx(p)) == p
    assert np.array_equal(to_scipy(p).toarray() != 0, to_mask(p) & ~np.eye(p.n, dtype=bool))
    assert np.array_equal(nx.to_numpy_array(to_networkx(p), nodelist=range(p.n)), to_scipy(p).toarray())
    folder = tmp_path_factory.mktemp("graphs")
    for name in ("graph.npz", "graph.npy", "graph.graphml", *(["graph.txt"] if p.symmetric else [])):
        assert read_graph(write_graph(p, folder / name)) == p


def test_nodes_with_names_are_numbered_in_order():
    graph = nx.Graph([("b", "a"), ("a", "c")])
    assert [from_networkx(graph).row(i).tolist() for i in range(3)] == [[1], [0, 2], [1]]
    shuffled = nx.Graph([("2", "0"), ("0", "1")])
    assert from_networkx(shuffled).row(0).tolist() == [1, 2]


@pytest.mark.parametrize("mask", [np.ones((2, 3)), np.ones(4), np.empty((0, 0)), [[1, np.nan], [0, 1]], [["a"]]])
def test_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="mask must"):
        from_mask(mask)


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="square"):
        from_scipy(scipy.sparse.csr_array((2, 3)))
    with pytest.raises(ValueError, match="at least one node"):
        from_networkx(nx.Graph())
