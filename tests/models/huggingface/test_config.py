"""The configuration's entry says which graphs a model has, and they are rebuilt from it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import PATTERNS, Pattern, corner, pattern
from nip.models.huggingface.config import GraphConfig, LayerGraph, layer_graph, read_graph_config

RING = Pattern.from_edges(5, range(5), [1, 2, 3, 4, 0], symmetric=True, name="ring")
PATH = Pattern.from_edges(4, range(3), [1, 2, 3], symmetric=True, name="path")


def read_again(setting):
    files = setting.files()
    return read_graph_config(json.loads(json.dumps(setting.to_dict())), files.__getitem__)


graphs = st.one_of(
    st.none(),
    st.builds(layer_graph, st.sampled_from(sorted(PATTERNS)), st.integers(1, 64)),
    st.builds(lambda seed: layer_graph("random", 8, {"seed": seed, "num_random_blocks": 2}), st.integers(0, 9)),
    st.builds(lambda graph: layer_graph(graph, 4), st.sampled_from([RING, PATH])),
)


@given(
    default=graphs,
    layers=st.none()
    | st.lists(graphs, min_size=1, max_size=3)
    | st.dictionaries(st.integers(0, 5), graphs, max_size=3),
    max_tokens=st.none() | st.integers(1, 4096),
    decoder=st.booleans(),
)
def test_a_setting_is_the_same_after_it_was_written_as_json(default, layers, max_tokens, decoder):
    setting = GraphConfig(default, layers, "gather", max_tokens, decoder)
    again = read_again(setting)
    assert again == setting
    assert [again.of_layer(i) for i in range(7)] == [setting.of_layer(i) for i in range(7)]


def test_layers_are_named_one_by_one_or_repeated():
    a, b = layer_graph("local", 4), layer_graph("hypercube", 4)
    assert [GraphConfig(a, {1: b, 2: None}).of_layer(i) for i in range(4)] == [a, b, None, a]
    assert [GraphConfig(None, [a, b, None]).of_layer(i) for i in range(5)] == [a, b, None, a, b]


def test_a_graph_is_made_for_every_length_and_only_once():
    family = layer_graph("random", 16, {"seed": 3})
    assert family.graph(1024) == pattern("random", 64, seed=3)
    assert family.graph(1009) is family.graph(1024)  # 64 blocks, the last one shorter
    assert family.graph(1025).n == 65


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_graph_that_grows_is_a_corner_of_the_longest(name):
    family = layer_graph(name, 4)
    for n in (3, 16, 30):
        assert family.graph(4 * n, max_tokens=120) == corner(pattern(name, 30), n)
    with pytest.raises(ValueError, match="built for 120 tokens, and the input has 121"):
        family.graph(121, max_tokens=120)


def test_a_graph_without_a_name_serves_shorter_inputs_by_its_corner():
    family = layer_graph(RING, 4)
    assert family.graph(20) == family.graph(17) == RING
    assert family.graph(12) == corner(RING, 3)
    with pytest.raises(ValueError, match=r"has 5 blocks of 4 tokens\. An input of 21 tokens needs 6"):
        family.graph(21)


@pytest.mark.parametrize(
    ("spec", "parameters", "message"),
    [
        ("hypercub", {}, "no pattern 'hypercub'"),
        ("local", {"seed": 3}, "has no parameter 'seed'"),
        ("random", {"num_random_blocks": -1}, "num_random_blocks"),
        (RING, {"seed": 3}, "takes no parameters"),
        ({"name": "local"}, {}, "must have the key 'pattern'"),
        (7, {}, "must be a pattern's name"),
    ],
)
def test_a_graph_named_wrongly_is_refused(spec, parameters, message):
    with pytest.raises(ValueError, match=message):
        layer_graph(spec, 16, parameters)


def test_an_entry_of_another_kind_is_refused():
    for record in (None, "hypercube", {"version": 2}, {}):
        with pytest.raises(ValueError, match=r"must be of version 1, as written by nip\.sparsify"):
            read_graph_config(record, lambda file: RING)
    record = GraphConfig(LayerGraph("hypercube")).to_dict()
    del record["backend"]
    with pytest.raises(ValueError, match="incomplete"):
        read_graph_config(record, lambda file: RING)


def test_another_graph_in_the_file_is_refused():
    record = GraphConfig(layer_graph(RING, 4)).to_dict()
    assert record["files"] == {RING.checksum: "pattern.npz"}
    with pytest.raises(ValueError, match=r"pattern\.npz is not the graph that the model's configuration names"):
        read_graph_config(record, lambda file: PATH)
