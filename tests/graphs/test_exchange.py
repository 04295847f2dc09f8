import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given

from nip.graphs import (
    GraphFileWarning,
    from_mask,
    from_networkx,
    from_scipy,
    pattern,
    read_graph,
    to_mask,
    to_networkx,
    to_scipy,
    write_graph,
)
from strategies import custom_patterns


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


def test_an_edge_list_as_people_write_it(tmp_path):
    path = tmp_path / "ring.txt"
    path.write_text("# a ring of four\n0 1\n1 2   # comment\n\n2\t3\n3 0\n")
    ring = read_graph(path)
    assert ring.name == "ring"
    assert ring == from_networkx(nx.cycle_graph(4))
    assert read_graph(path, n=6).n == 6


def test_dropped_loops_and_merged_edges_raise_warnings(tmp_path):
    path = tmp_path / "graph.edges"
    path.write_text("0 1\n1 0\n0 1\n1 1\n1 2\n")
    with pytest.warns(GraphFileWarning) as caught:
        p = read_graph(path)
    assert p.n_edges == 4
    assert "1 self loop dropped" in str(caught[0].message)
    assert "2 repeated edges merged" in str(caught[1].message)
    graph = nx.MultiDiGraph([(0, 1), (0, 1), (1, 1), (1, 2)])
    nx.write_graphml(graph, tmp_path / "multi.graphml")
    with pytest.warns(GraphFileWarning) as caught:
        assert read_graph(tmp_path / "multi.graphml").n_edges == 2
    assert ["1 self loop dropped" in str(caught[0].message), "1 repeated edge merged" in str(caught[1].message)] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 1\n1\n", "line 2"),
        ("0 1 2\n", "line 1"),
        ("0 1\n1 x\n", "line 2.*'1 x'"),
        ("0 1.5\n", "line 1"),
        ("-1 0\n", "line 1"),
        ("", "contains no edge"),
        ("# nothing\n", "contains no edge"),
    ],
)
def test_malformed_edge_lists_name_file_and_line(tmp_path, text, says):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"bad.txt.*{says}"):
        read_graph(path)


def test_an_edge_beyond_n_is_refused(tmp_path):
    path = tmp_path / "graph.txt"
    path.write_text("0 7\n")
    with pytest.raises(ValueError, match="vertex 7 is outside a graph of 5"):
        read_graph(path, n=5)


def test_directed_graphml_keeps_its_direction(tmp_path):
    path = tmp_path / "arrow.graphml"
    nx.write_graphml(nx.DiGraph([(0, 1), (1, 2)]), path)
    assert [read_graph(path).row(i).tolist() for i in range(3)] == [[1], [2], []]


def test_nodes_with_names_are_numbered_in_order():
    graph = nx.Graph([("b", "a"), ("a", "c")])
    assert [from_networkx(graph).row(i).tolist() for i in range(3)] == [[1], [0, 2], [1]]
    shuffled = nx.Graph([("2", "0"), ("0", "1")])
    assert from_networkx(shuffled).row(0).tolist() == [1, 2]


def test_files_of_other_libraries(tmp_path):
    p = pattern("longformer", 10)
    scipy.sparse.save_npz(tmp_path / "scipy.npz", to_scipy(p))
    assert read_graph(tmp_path / "scipy.npz") == p
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    with pytest.raises(ValueError, match=r"other.npz.*Got the arrays x"):
        read_graph(tmp_path / "other.npz")
    for name in ("text.npz", "text.npy", "text.graphml"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(ValueError, match=name):
            read_graph(tmp_path / name)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="binary data"):
        read_graph(tmp_path / "binary.txt")
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "absent.txt")


def test_a_pickled_mask_is_not_executed(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"evil\.npy"):
        read_graph(tmp_path / "evil.npy")


@pytest.mark.parametrize("mask", [np.ones((2, 3)), np.ones(4), np.empty((0, 0)), [[1, np.nan], [0, 1]], [["a"]]])
def test_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="mask must"):
        from_mask(mask)


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="square"):
        from_scipy(scipy.sparse.csr_array((2, 3)))
    with pytest.raises(ValueError, match="at least one node"):
        from_networkx(nx.Graph())


def test_forms_that_would_lose_the_graph_are_refused(tmp_path):
    with pytest.raises(ValueError, match="undirected"):
        write_graph(pattern("random", 20), tmp_path / "a.txt")
    with pytest.raises(ValueError, match="causal"):
        write_graph(pattern("local", 20, causal=True), tmp_path / "a.npy")
    assert list(tmp_path.iterdir()) == []
