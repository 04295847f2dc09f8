"""Graph files as people and programs write them; networkx and scipy write most of them here."""

import gzip

import networkx as nx
import numpy as np
import pytest
import scipy.io
import scipy.sparse

import nip
from nip.graphs import GraphFileWarning, from_networkx, pattern, read_graph, to_scipy, undirected, write_graph

PETERSEN = nx.petersen_graph()  # relative NIP 1.5
WANTED = from_networkx(PETERSEN)
WEIGHTED = nx.Graph([(u, v, {"weight": 2}) for u, v in PETERSEN.edges()])


def edge_list(line=lambda u, v: f"{u} {v}\n"):
    return "".join(line(u, v) for u, v in PETERSEN.edges())


def metis(graph):
    rows = [" ".join(str(v + 1) for v in sorted(graph[u])) + "\n" for u in sorted(graph)]
    return f"% a comment\n{len(graph)} {graph.number_of_edges()}\n" + "".join(rows)


FILES = {
    "bom.txt": lambda path: path.write_bytes(b"\xef\xbb\xbf" + edge_list().encode()),
    "commas.csv": lambda path: path.write_text(edge_list("{},{}\n".format)),
    "percent.edges": lambda path: path.write_text("% Konect\n" + edge_list()),
    "networkx.edgelist": lambda path: nx.write_edgelist(PETERSEN, path),
    "packed.txt.gz": lambda path: path.write_bytes(gzip.compress(edge_list().encode())),
    "graph.graphml": lambda path: nx.write_graphml(PETERSEN, path),
    "packed.graphml.gz": lambda path: nx.write_graphml(PETERSEN, path),
    "gephi.gexf": lambda path: nx.write_gexf(PETERSEN, path),
    "graph.gml": lambda path: nx.write_gml(PETERSEN, path),
    "graph.net": lambda path: nx.write_pajek(PETERSEN, path),
    "graph.adjlist": lambda path: nx.write_adjlist(PETERSEN, path),
    "matrix.mtx": lambda path: scipy.io.mmwrite(path, nx.to_scipy_sparse_array(PETERSEN, dtype=float)),
    "dense.mtx": lambda path: scipy.io.mmwrite(path, nx.to_numpy_array(PETERSEN)),
    "graph.graph": lambda path: path.write_text(metis(PETERSEN)),
    "graph.col": lambda path: path.write_text("c x\np edge 10 15\n" + edge_list(lambda u, v: f"e {u + 1} {v + 1}\n")),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("error::nip.graphs.GraphFileWarning")
def test_every_format_gives_the_same_graph_without_a_warning(tmp_path, name):
    FILES[name](tmp_path / name)
    read = read_graph(tmp_path / name)
    assert read.name == name.split(".")[0] and read.n_edges == 30
    assert nip.score(read).nip_relative == pytest.approx(1.5)
    if name not in ("graph.net",):  # its vertices are strings in the order of the file
        assert read == WANTED


def read_with_warnings(path, **options):
    with pytest.warns(GraphFileWarning) as caught:
        read = read_graph(path, **options)
    return read, " ".join(str(each.message) for each in caught)


def test_ids_counted_from_one(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text(edge_list(lambda u, v: f"{u + 1} {v + 1}\n"))
    read, says = read_with_warnings(path)
    assert read.n == 11 and "vertex 0 has no edge, so the score is 0" in says and "--first-vertex 1" in says
    assert read_graph(path, first_vertex=1) == WANTED == read_graph(path, relabel=True)
    with pytest.raises(ValueError, match=r"one.txt.*vertex 1 is below the first, 2"):
        read_graph(path, first_vertex=2)


def test_ids_with_gaps(tmp_path):
    path = tmp_path / "snap.txt"
    path.write_text("# FromNodeId\tToNodeId\n" + edge_list(lambda u, v: f"{37 * u + 5}\t{37 * v + 5}\n"))
    read, says = read_with_warnings(path)
    assert read.n == 339 and "329 of 339 vertices have no edge, so the score is 0" in says and "--relabel" in says
    assert read_graph(path, relabel=True) == WANTED


def test_ids_that_are_names_are_refused_at_once(tmp_path):
    for name, text in (
        ("ids.txt", edge_list(lambda u, v: f"{3 * 10**7 * (u + 1)} {3 * 10**7 * (v + 1)}\n")),
        ("huge.mtx", "%%MatrixMarket matrix coordinate real general\n300000000 300000000 1\n1 2 1.0\n"),
        ("huge.col", "p edge 300000000 1\ne 1 2\n"),
        ("stated.txt", "# 300000000 vertices\n0 1\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}.*300,000,00. vertices, of which almost none has an edge"):
            read_graph(tmp_path / name)
    assert read_graph(tmp_path / "ids.txt", relabel=True) == WANTED


def test_a_directed_default_of_an_editor(tmp_path):
    path = tmp_path / "yed.graphml"
    nx.write_graphml(nx.DiGraph(list(PETERSEN.edges())), path)
    read, says = read_with_warnings(path)
    assert "read as a directed graph" in says and "so the score is 0" in says and "--undirected" in says
    assert nip.score(read).nip_relative == 0
    assert read_graph(path, undirected=True) == WANTED


@pytest.mark.parametrize("ending", ["npy", "mtx", "npz"])
def test_a_triangle(tmp_path, ending):
    path = tmp_path / f"upper.{ending}"
    upper = np.triu(nx.to_numpy_array(PETERSEN))
    {
        "npy": lambda: np.save(path, upper),
        "mtx": lambda: scipy.io.mmwrite(path, scipy.sparse.coo_array(upper), symmetry="general"),
        "npz": lambda: scipy.sparse.save_npz(path, scipy.sparse.csr_array(upper)),
    }[ending]()
    _, says = read_with_warnings(path)
    assert "--undirected" in says and "--causal" not in says
    assert read_graph(path, undirected=True) == WANTED
    np.save(tmp_path / "lower.npy", upper.T)
    assert "--causal" in read_with_warnings(tmp_path / "lower.npy")[1]


@pytest.mark.filterwarnings("error::nip.graphs.GraphFileWarning")
def test_directed_graphs_that_are_connected_are_left_as_they_are(tmp_path):
    nx.write_graphml(nx.cycle_graph(5, create_using=nx.DiGraph), tmp_path / "ring.graphml")
    assert [read_graph(tmp_path / "ring.graphml").row(i).tolist() for i in range(5)] == [[1], [2], [3], [4], [0]]
    p = pattern("random", 20)  # what nip has written needs no interpretation
    assert read_graph(p.save(tmp_path / "mine.npz")) == p
    assert read_graph(tmp_path / "mine.npz", undirected=True) == undirected(p)


def test_isolated_vertices(tmp_path):
    (tmp_path / "six.txt").write_text("# 6 vertices\n0 1\n1 3\n")
    read, says = read_with_warnings(tmp_path / "six.txt")
    assert read.n == 6 and "3 of 6 vertices have no edge" in says
    assert read_graph(tmp_path / "six.txt", relabel=True) == from_networkx(nx.path_graph(3))
    mask = np.zeros((5, 5))
    mask[1, 3] = mask[3, 1] = 1
    np.save(tmp_path / "mask.npy", mask)
    assert read_graph(tmp_path / "mask.npy", relabel=True) == from_networkx(nx.path_graph(2))
    np.save(tmp_path / "none.npy", np.zeros((5, 5)))
    with pytest.raises(ValueError, match="would leave no vertex"):
        read_graph(tmp_path / "none.npy", relabel=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", lambda path: path.write_text(edge_list("{} {} 0.5\n".format))),
        (
            "a.edgelist",
            lambda path: nx.write_edgelist(nx.Graph([(u, v, {"weight": 2}) for u, v in PETERSEN.edges()]), path),
        ),
        ("a.gexf", lambda path: nx.write_gexf(nx.Graph([(u, v, {"weight": 2}) for u, v in PETERSEN.edges()]), path)),
        ("a.mtx", lambda path: scipy.io.mmwrite(path, nx.to_scipy_sparse_array(PETERSEN) * np.arange(1, 11))),
        ("a.graph", lambda path: path.write_text("3 2 001\n2 7\n1 7 3 9\n2 9\n")),
    ],
)
def test_weights_are_noted_and_ignored(tmp_path, name, write):
    write(tmp_path / name)
    read, says = read_with_warnings(tmp_path / name)
    assert "weights are ignored" in says
    assert read == (from_networkx(nx.path_graph(3)) if name == "a.graph" else WANTED)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.dot", "graph {}", r"ending in \.dot is read as an edge list; other formats are \.npz, \.npy"),
        ("a.graph", "3 2\n2\n1 3\n", "states 3 vertices and has 2 lines"),
        ("a.graph", "3 x\n", "line 1: expected integers"),
        ("a.graph", "", "no line with the number"),
        ("a.graph", "2 1\n2\n9\n", "vertex 9 is outside a graph of 2 vertices, counted from 1"),
        ("a.col", "e 1 2\n", "no line `p edge"),
        ("a.col", "p edge 2 1\nhello\n", "line 2"),
        ("a.gml", "graph [ node [", "not a .gml graph"),
        ("a.gml", "graph [" + "a [" * 100_000, "not a .gml graph"),
        ("a.gexf", "<gexf>", "not a .gexf graph"),
        ("a.net", "*vertices x", "not a .net graph"),
        ("a.mtx", "hello", "not a .mtx graph"),
        ("a.txt.gz", "hello", "cannot be unpacked"),
    ],
)
def test_malformed_files_are_one_sentence_with_their_name(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read_graph(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_entities_are_not_expanded(tmp_path):
    bomb = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(30))
    (tmp_path / "bomb.graphml").write_text(f'<!DOCTYPE g [<!ENTITY a0 "aa">{bomb}]><graphml>&a30;</graphml>')
    with pytest.raises(ValueError, match=r"not a \.graphml graph"):
        read_graph(tmp_path / "bomb.graphml")


def test_a_packed_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("nip.graphs.graph_files.LARGEST_FILE", 1 << 20)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"0 1\n" * (1 << 20)))
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_graph(tmp_path / "bomb.txt.gz")


def test_options_that_do_not_apply(tmp_path):
    nx.write_gexf(PETERSEN, tmp_path / "a.gexf")
    with pytest.raises(ValueError, match="--first-vertex is for edge lists"):
        read_graph(tmp_path / "a.gexf", first_vertex=1)
    (tmp_path / "a.txt").write_text("0 1\n")
    with pytest.raises(ValueError, match="--relabel exclude each other"):
        read_graph(tmp_path / "a.txt", n=2, relabel=True)
    causal = pattern("local", 8, causal=True).save(tmp_path / "causal.npz")
    with pytest.raises(ValueError, match="stored as causal"):
        read_graph(causal, undirected=True)
    with pytest.raises(ValueError, match="read, not written"):
        write_graph(pattern("local", 8), tmp_path / "a.gml")


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
        ("0 1 2 3\n", "line 1"),
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


def test_forms_that_would_lose_the_graph_are_refused(tmp_path):
    with pytest.raises(ValueError, match="undirected"):
        write_graph(pattern("random", 20), tmp_path / "a.txt")
    with pytest.raises(ValueError, match="causal"):
        write_graph(pattern("local", 20, causal=True), tmp_path / "a.npy")
    assert list(tmp_path.iterdir()) == []
