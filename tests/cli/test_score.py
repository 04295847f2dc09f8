import csv
import io
import json
import sys

import networkx as nx
import numpy as np
import pytest

import nip
from nip.cli import main
from nip.graphs import PATTERNS, pattern, write_graph


@pytest.fixture
def run(capsys):
    """Run a command line; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


def test_score_of_the_paper(run):
    code, out, err = run("score", "hypercube", "--n-vertices", 2048, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["nip_relative"] == pytest.approx(4.8449, abs=5e-5)
    assert set(record) >= {
        "pattern",
        "parameters",
        "n_vertices",
        "block_size",
        "n_tokens",
        "density",
        "mean_degree",
        "max_degree",
        "diameter",
        "cost",
        "payload",
        "nip",
        "nip_relative",
        "log10_nip",
        "bottleneck_nip",
        "bottleneck_nip_relative",
        "connected",
        "worst_pair",
        "worst_path",
        "method",
    }


def test_sequence_length_is_cut_into_blocks(run):
    for length, n in ((2048, 128), (2033, 128), (2032, 127), (1, 1)):
        record = json.loads(run("score", "local", "--seq-len", length, "--block-size", 16, "--json")[1])
        assert (record["n_vertices"], record["n_tokens"]) == (n, 16 * n)


def test_parameters_reach_the_pattern(run):
    options = ("--n-vertices", 64, "--param", "num_random_blocks=2", "--param", "symmetric=true", "--param", "seed=3")
    record = json.loads(run("score", "bigbird", *options, "--json")[1])
    expected = nip.score(pattern("bigbird", 64, num_random_blocks=2, symmetric=True, seed=3))
    assert record == json.loads(json.dumps(expected.to_dict()))
    assert (
        json.loads(run("score", "bigbird", "--n-vertices", 64, "--causal", "--json")[1])["parameters"]["causal"] is True
    )


def test_a_graph_file_is_scored(run, tmp_path):
    petersen = tmp_path / "petersen.txt"
    petersen.write_text("".join(f"{i} {j}\n" for i, j in nx.petersen_graph().edges) + "0 0\n")
    code, out, err = run("score", "--graph", petersen, "--json")
    assert code == 0
    assert json.loads(out)["nip_relative"] == pytest.approx(81 / (9 * 3 * 2))
    assert "1 self loop dropped" in err
    for ending in ("npz", "npy", "graphml"):
        file = write_graph(pattern("longformer", 9), tmp_path / f"graph.{ending}")
        assert json.loads(run("score", "--graph", file, "--json")[1])["nip"] == nip.score(pattern("longformer", 9)).nip


def test_how_a_graph_file_is_read(run, tmp_path):
    path = tmp_path / "petersen.txt"
    path.write_text("".join(f"{i + 1} {j + 1}\n" for i, j in nx.petersen_graph().edges))
    code, out, err = run("score", "--graph", path, "--json")
    assert (code, json.loads(out)["nip_relative"]) == (0, 0) and "--first-vertex 1" in err
    code, out, err = run("score", "--graph", path, "--first-vertex", 1, "--json", "--output", tmp_path / "graph.npz")
    assert json.loads(out)["nip_relative"] == pytest.approx(1.5) and "no edge" not in err
    assert json.loads(run("score", "--graph", tmp_path / "graph.npz", "--json")[1])["nip_relative"] == pytest.approx(
        1.5
    )
    for command in (("compare", "--json"), ("show", "--output", tmp_path / "a.png", "--json")):
        assert "no edge" not in run(*command, "--graph", path, "--relabel")[2]
    for command in ("score", "compare", "show"):
        code, out, err = run(command, "--attention", "hypercube", "--n-vertices", 8, "--undirected")
        assert (code, out) == (2, "") and "say how a graph file is read" in err


def test_a_line_of_4096_vertices_keeps_its_logarithm(run):
    record = json.loads(run("score", "local", "--n-vertices", 4096, "--json")[1])
    assert record["nip"] == 0
    # the farthest pair's path passes 4,094 vertices of degree 2 and ends in one of degree 1
    cost = record["mean_degree"] * 4095
    assert record["log10_nip"] == pytest.approx(-4094 * np.log10(2) - np.log10(cost), rel=1e-9)


def test_score_as_text(run):
    code, out, _ = run("score", "random", "--n-vertices", 200)
    assert code == 0
    assert "diameter" in out
    assert "∞" in out


def test_compare_lists_all_patterns_best_first(run):
    code, out, err = run("compare", "--seq-len", 2048, "--block-size", 16, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert {row["pattern"] for row in rows} == set(PATTERNS)
    values = [row["bottleneck_nip_relative"] for row in rows]
    assert values == sorted(values, reverse=True)
    cube = next(row for row in rows if row["pattern"] == "hypercube")
    assert cube["nip_relative"] == pytest.approx(0.748, abs=5e-4)
    assert cube["vertex_nip_relative"] == pytest.approx(2.014, abs=5e-4)


def test_depth_adds_reach(run):
    one = json.loads(run("score", "hypercube", "--n-vertices", 8, "--depth", 2, "--json")[1])
    assert one["reach"] == pytest.approx(6 / 7) and one["steps"] == 2 and one["log10_least_payload"] is None
    rows = json.loads(run("compare", "hypercube", "local", "--n-vertices", 8, "--depth", 2, "--json")[1])
    assert rows[0] == {**one, "vertex_nip_relative": rows[0]["vertex_nip_relative"]}
    assert "−∞" in run("score", "hypercube", "--n-vertices", 8, "--depth", 2)[1]
    assert "sorted by even_reach; reach within 2 steps" in " ".join(
        run("compare", "local", "--n-vertices", 8, "--depth", 2)[1].split()
    )
    for command in ("score", "compare"):
        code, _, err = run(command, "local", "--n-vertices", 8, "--depth", 0)
        assert code != 0 and "--depth must be an integer of at least 1. Got 0 instead." in err


def test_compare_in_every_form(run, tmp_path):
    options = ("compare", "hypercube", "bigbird", "--n-vertices", 32, "--sort", "diameter")
    assert [r["pattern"] for r in csv.DictReader(io.StringIO(run(*options, "--csv")[1]))] == ["bigbird", "hypercube"]
    assert run(*options, "--markdown")[1].startswith("| pattern |")
    _, table, _ = run(*options)
    assert "sorted by diameter" in " ".join(table.split())
    code, out, err = run(*options, "--html", "--out", tmp_path / "table.html")
    assert (code, out) == (0, "")
    assert "wrote" in err
    assert "<table>" in (tmp_path / "table.html").read_text()


def test_compare_over_several_sizes(run, tmp_path):
    sizes = ("--n-vertices", "16,32", "--attention", "hypercube,softmax")
    code, out, _ = run("compare", *sizes)
    assert code == 0 and "N=16" in out and "N=32" in out
    records = json.loads(run("compare", *sizes, "--json")[1])
    assert [(r["pattern"], r["n_vertices"]) for r in records] == [
        ("hypercube", 32), ("hypercube", 16), ("softmax", 16), ("softmax", 32),
    ]  # fmt: skip
    assert run("compare", *sizes, "--markdown")[1].splitlines()[0] == "| pattern | N=16 | N=32 |"
    assert "<img" in run("compare", *sizes, "--html")[1]
    for ending in ("svg", "png"):
        code, out, _ = run("compare", *sizes, "--output", tmp_path / f"curve.{ending}")
        assert code == 0 and "hypercube" in out and (tmp_path / f"curve.{ending}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--n-vertices", "16,16"), "names each size once"),
        (("--n-vertices", ","), "names each size once"),
        (("--n-vertices", "16,x"), "--n-vertices must be an integer. Got 'x'"),
        (("--n-vertices", "16,0"), "--n-vertices must be an integer of at least 1. Got 0"),
        (("--n-vertices", "16,32", "--output", "a.svg", "--json"), "is a figure"),
        (("--n-vertices", "16", "--output", "a.svg"), "Say in which form"),
        (("--n-vertices", "16,32", "--seq-len", "64"), "say the same thing twice"),
    ],
)
def test_compare_refuses_sizes(run, options, says):
    code, out, err = run("compare", *options)
    assert (code, out) == (2, "") and says in err


def test_compare_gives_parameters_to_the_patterns_that_have_them(run):
    rows = json.loads(run("compare", "local", "bigbird", "--n-vertices", 32, "--param", "seed=5", "--json")[1])
    parameters = {row["pattern"]: row["parameters"] for row in rows}
    assert parameters["bigbird"]["seed"] == 5
    assert "seed" not in parameters["local"]


def test_compare_adds_graph_files(run, tmp_path):
    file = write_graph(pattern("local", 12), tmp_path / "mine.txt")
    rows = json.loads(run("compare", "hypercube", "--n-vertices", 16, "--graph", file, "--json")[1])
    assert {(row["pattern"], row["n_vertices"]) for row in rows} == {("hypercube", 16), ("mine", 12)}
    assert [row["pattern"] for row in json.loads(run("compare", "--graph", file, "--json")[1])] == ["mine"]


def test_compare_leaves_out_what_needs_a_missing_library(run, monkeypatch):
    from nip.graphs.finite_fields import field

    field.cache_clear()
    monkeypatch.setitem(sys.modules, "galois", None)
    code, out, err = run("compare", "--n-vertices", 146, "--json")
    assert code == 0
    assert {row["pattern"] for row in json.loads(out)} == set(PATTERNS) - {"projective_plane", "generalized_quadrangle"}
    assert err.count("pip install 'nip[fast]'") == 2
    code, out, err = run("compare", "projective_plane", "--n-vertices", 146, "--json")
    assert (code, out) == (2, "")
    assert "pip install 'nip[fast]'" in err


def test_compare_lists_the_patterns_that_exist(run):
    rows = json.loads(run("compare", "--n-vertices", 16, "--json")[1])
    assert {row["pattern"] for row in rows} == set(PATTERNS) - {"generalized_quadrangle"}


def test_search_saves_the_best_for_graph(run, tmp_path):
    file = tmp_path / "best.npz"
    options = ("search", "--n-vertices", 10, "--degree", 3, "--steps", 600, "--out", file)
    code, out, err = run(*options, "--json")
    assert code == 0
    assert err == f"wrote {file}\n"
    rows = json.loads(out)
    values = [row["nip_relative"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1.5)  # the Petersen graph
    assert json.loads(run("score", "--graph", file, "--json")[1])["nip_relative"] == values[0]
    assert "sorted by nip_relative" in " ".join(run(*options)[1].split())


def test_show_draws(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("show", "hypercube", "--n-vertices", 16)[0] == 0
    assert (tmp_path / "hypercube-16.png").stat().st_size > 1000
    code, out, _ = run("show", "local", "--n-vertices", 8, "--out", "picture.svg", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["picture"] == "picture.svg"
    assert [row["distance"] for row in record["payload_by_distance"]] == list(range(1, 8))
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("score", "tesseract", "--n-vertices", "8"), "The patterns are softmax, hypercube"),
        (("score", "hypercube"), "--n-vertices N, or --seq-len L"),
        (("score",), "Name a pattern"),
        (("score", "hypercube", "--n-vertices", "0"), "--n-vertices must be an integer of at least 1. Got 0"),
        (("score", "hypercube", "--seq-len", "-5"), "--seq-len must be an integer of at least 1. Got -5"),
        (("score", "hypercube", "--n-vertices", "8", "--block-size", "0"), "--block-size must be"),
        (("score", "hypercube", "--n-vertices", "8", "--seq-len", "8"), "Give one of them"),
        (("score", "hypercube", "--n-vertices", "8", "--param", "seed=1"), "no parameter 'seed'"),
        (("score", "random", "--n-vertices", "8", "--param", "seed=x"), "'seed' parameter of random"),
        (("score", "random", "--n-vertices", "8", "--param", "seed"), "--param takes name=value"),
        (("score", "random", "--n-vertices", "8", "--param", "seed=1", "--param", "seed=2"), "twice"),
        (("score", "--graph", "absent.txt"), "absent.txt: No such file"),
        (("score", "random", "--graph", "absent.txt"), "not both"),
        (("compare", "--n-vertices", "8", "--sort", "beauty"), "Sort by one of"),
        (("compare", "--n-vertices", "8", "--param", "depth=1"), "has a parameter 'depth'"),
        (("compare", "--n-vertices", "8", "--json", "--csv"), "exclude each other"),
        (("compare", "table.csv", "--n-vertices", "8"), "use --output table.csv"),
        (("compare", "--n-vertices", "8", "--out", "a.txt"), "in which form"),
        (
            ("compare", "--n-vertices", "8", "--json", "--out", "no/such/folder.json"),
            "no/such/folder.json: cannot write",
        ),
        (("show", "hypercube", "--n-vertices", "8", "--out", "a.jpeg"), "must end in .png"),
        (("search", "--degree", "3"), "--n-vertices N, or --seq-len L"),
        (("search", "--n-vertices", "8", "--degree", "0"), "'degree' parameter of search"),
        (("search", "--n-vertices", "8", "--degree", "3", "--objective", "beauty"), "one of nip_relative"),
        (("search", "--n-vertices", "8", "--degree", "3", "--out", "best.txt"), "--output must end in .npz"),
        (("score", "projective_plane", "--n-vertices", "13"), "integer of at least 14. Got 13"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, arguments, says):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_malformed_files_name_file_and_line(run, tmp_path):
    file = tmp_path / "bad.txt"
    file.write_text("0 1\n1 two\n")
    code, out, err = run("score", "--graph", file)
    assert (code, out) == (2, "")
    assert f"{file}, line 2" in err
    np.save(tmp_path / "wide.npy", np.ones((2, 3)))
    assert "square" in run("score", "--graph", tmp_path / "wide.npy")[2]


@pytest.mark.parametrize("command", ["score", "compare", "show", "search", "doctor"])
def test_help_has_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"nip {command}" in out.split("Example:")[1]
