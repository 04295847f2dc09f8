import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import PATTERNS, Pattern, pattern, pattern_parameters
from nip.graphs.pattern import read_parameters
from strategies import any_patterns


def test_rows_and_figures_of_a_small_graph():
    square = Pattern.from_edges(4, [0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 0, 1], symmetric=True)
    assert [square.row(i).tolist() for i in range(4)] == [[1, 3], [0, 2], [1, 3], [0, 2]]
    assert square.degrees.tolist() == [2, 2, 2, 2]
    assert square.n_edges == 8
    assert square.density == 12 / 16
    assert square.symmetric
    assert not Pattern.from_edges(3, [0], [1]).symmetric


@given(any_patterns())
def test_rebuilt_from_its_name_or_its_file(tmp_path_factory, p):
    if p.name in PATTERNS:
        assert pattern(p.name, p.n, **p.parameters) == p
    path = p.save(tmp_path_factory.mktemp("patterns") / "pattern.npz")
    loaded = Pattern.load(path)
    assert loaded == p
    assert (loaded.name, dict(loaded.parameters), loaded.causal) == (p.name, dict(p.parameters), p.causal)
    assert hash(loaded) == hash(p)
    assert loaded.checksum == p.checksum


def test_equality_is_of_the_graph_not_of_the_name():
    star = pattern("global", 5)
    assert star == Pattern.from_edges(5, [0] * 4, [1, 2, 3, 4], symmetric=True, name="star")
    assert star != pattern("global", 6)
    assert star != pattern("longformer", 5)
    assert pattern("softmax", 1) != pattern("softmax", 1, causal=True)
    assert star != "global"


def test_cannot_be_changed():
    p = pattern("hypercube", 8)
    with pytest.raises(AttributeError):
        p.n = 9
    with pytest.raises(ValueError, match="read-only"):
        p.indices[0] = 3
    with pytest.raises(TypeError):
        p.parameters["seed"] = 1


def test_arrays_are_copied_in():
    indices = np.array([1, 0])
    p = Pattern(2, np.array([0, 1, 2]), indices)
    indices[0] = 7
    assert p.row(0).tolist() == [1]


def test_survives_a_process_boundary():
    p = pattern("bigbird", 40, seed=3)
    copy = pickle.loads(pickle.dumps(p))
    assert copy == p
    assert copy.parameters == p.parameters


@pytest.mark.parametrize(
    ("indptr", "indices", "says"),
    [
        ([0, 1], [1], "n \\+ 1 = 3"),
        ([0, 2, 1], [1, 0], "n \\+ 1 = 3"),
        ([0, 1, 2], [1, 2], "\\[0, 2\\)"),
        ([0, 1, 2], [1, -1], "\\[0, 2\\)"),
        ([0, 1, 2], [0, 0], "self edges are implied"),
        ([0, 2, 2], [1, 1], "without repetition"),
    ],
)
def test_refuses_rows_that_are_no_pattern(indptr, indices, says):
    with pytest.raises(ValueError, match=says):
        Pattern(2, np.array(indptr), np.array(indices))


def test_refuses_later_vertices_in_a_causal_pattern():
    with pytest.raises(ValueError, match="earlier vertices only"):
        Pattern(2, np.array([0, 1, 1]), np.array([1]), causal=True)


@pytest.mark.parametrize("n", [0, -1, 1.5, "8", True, None])
def test_every_pattern_refuses_a_bad_n(n):
    for name in PATTERNS:
        with pytest.raises(ValueError, match=r"integer of at least (1|14|30)\."):
            pattern(name, n)


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(ValueError, match=r"local\+random, projective_plane, generalized_quadrangle, expander"):
        pattern("tesseract", 8)
    with pytest.raises(ValueError, match="takes num_sliding_window_blocks"):
        pattern("local", 8, num_global_blocks=1)
    with pytest.raises(ValueError, match="takes only causal"):
        pattern("hypercube", 8, seed=1)
    with pytest.raises(ValueError, match="'causal' parameter"):
        pattern("hypercube", 8, causal=1)


@pytest.mark.parametrize("name", PATTERNS)
def test_parameters_must_be_in_range(name):
    for parameter, default in pattern_parameters(name).items():
        bad = 2 if isinstance(default, bool) else -1
        with pytest.raises(ValueError, match=f"'{parameter}' parameter of {name.replace('+', '.')}"):
            pattern(name, 30, **{parameter: bad})


@pytest.mark.parametrize("damage", ["truncated", "text", "foreign", "pickled"])
def test_refuses_a_damaged_file(tmp_path, damage):
    path = tmp_path / "pattern.npz"
    pattern("bigbird", 64).save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("not a zip file")
    elif damage == "foreign":
        np.savez(path, a=np.arange(3))
    else:
        np.savez(path, nip_pattern=np.array([{"a": 1}], dtype=object), n=1, indptr=[0, 0], indices=[])
    with pytest.raises(ValueError, match="not a pattern file"):
        Pattern.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = pattern("hypercube", 8).save(tmp_path / "pattern.npz")
    before = path.read_bytes()

    def fail(*_args, **_arrays):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        pattern("hypercube", 16).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["pattern.npz"]


@given(st.integers(1, 40), st.integers(0, 5))
def test_density_counts_the_own_vertex_and_degree_does_not(n, w):
    p = pattern("local", n, num_sliding_window_blocks=w)
    assert p.density == pytest.approx((p.mean_degree + 1) / n)


def test_parameters_are_read_as_json_or_text():
    assert read_parameters(["a=1", "b=true", "c=True", "d=x y"]) == {"a": 1, "b": True, "c": True, "d": "x y"}
    with pytest.raises(ValueError, match="twice"):
        read_parameters(["a=1", "a=2"])


INTEGERS = [np.int64, np.int32, np.uint8, np.int16]


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("name", PATTERNS)
def test_numpy_integers_are_integers(integer, name, tmp_path):
    parameters = {k: v for k, v in pattern(name, 32).parameters.items() if isinstance(v, int)}
    given = {k: v if isinstance(v, bool) else integer(v) for k, v in parameters.items()}
    made = pattern(name, integer(32), **given)
    assert made == pattern(name, 32) and type(made.n) is int
    assert json.loads(json.dumps(dict(made.parameters))) == pattern(name, 32).parameters
    loaded = Pattern.load(made.save(tmp_path / "graph.npz"))
    assert (loaded, loaded.parameters) == (made, made.parameters)


def test_parameters_that_cannot_be_saved_are_named_and_nothing_is_written(tmp_path):
    marked = Pattern.from_edges(3, [0], [1], parameters={"made_by": np.float32(0.5), "of": {1, 2}})
    assert type(marked.parameters["made_by"]) is float
    with pytest.raises(ValueError, match=r"parameters must be JSON values.*set"):
        marked.save(tmp_path / "graph.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PATTERNS)
def test_torch_compile_does_not_trace_any_family(name):
    assert hasattr(PATTERNS[name], "__wrapped__"), f"decorate the function of {name} with not_traced"
