import json
import time
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nip.graphs import names_at, pattern, to_networkx
from nip.scoring import score, search, sweep
from nip.scoring.payload import payload
from nip.scoring.search import candidates, exchanged


def as_graph(p):
    graph = to_networkx(p).to_undirected()
    graph.remove_edges_from(nx.selfloop_edges(graph))
    return graph


@pytest.mark.parametrize(
    ("n", "degree", "known"),
    [(6, 3, nx.complete_bipartite_graph(3, 3)), (10, 3, nx.petersen_graph()), (14, 3, nx.heawood_graph())],
)
def test_finds_the_graphs_known_to_be_best(n, degree, known):
    best = search(n, degree, steps=600)[0]
    assert nx.is_isomorphic(as_graph(best.pattern), known)
    assert best.score.nip == pytest.approx(float(payload(best.pattern).nip))


def test_exchanges_find_the_heawood_graph_from_a_random_one():
    start = pattern("expander", 14, degree=3, seed=5)
    assert not nx.is_isomorphic(as_graph(start), nx.heawood_graph())
    assert nx.is_isomorphic(as_graph(exchanged(start, seed=0, steps=2500)), nx.heawood_graph())


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 24), st.integers(1, 8), st.integers(0, 5), st.sampled_from([1, 4]), st.booleans())
@example(n=6, degree=4, seed=0, block_size=1, discounted=False)  # the expander of degree 3 beats those of degree 4
def test_never_worse_than_a_family_and_within_the_budget(n, degree, seed, block_size, discounted):
    objective = "bottleneck_nip_relative" if discounted else "nip_relative"
    found = search(n, degree, seed=seed, steps=20, objective=objective, block_size=block_size)
    assert all(one.pattern.n == n and one.pattern.degrees.max() <= degree for one in found)
    assert all(one.score == score(one.pattern, block_size) for one in found)
    values = [getattr(one.score, objective) for one in found]
    assert all(first >= second * (1 - 1e-8) for first, second in pairwise(values))
    family = [pattern(name, n) for name in names_at(n) if name not in {"random", "local+random", "bigbird"}]
    within = [getattr(score(p, block_size), objective) for p in family if p.degrees.max() <= degree]
    assert values[0] >= max(within, default=0) * (1 - 1e-8)
    assert len({one.pattern for one in found}) == len(found)


def test_members_of_all_families_are_candidates():
    names = {p.name for p in candidates(128, 20, 0)}
    assert names == set(names_at(128)) - {"softmax", "global", "longformer", "bigbird"}  # these have rows of 127
    assert {p.name for p in candidates(40, 39, 0)} == set(names_at(40))
    orders = {(p.name, p.parameters["order"]) for p in candidates(64, 7, 0) if "order" in p.parameters}
    assert orders == {("projective_plane", 5), ("generalized_quadrangle", 3)}


def test_exchanges_keep_every_degree_and_never_end_worse():
    start = pattern("longformer", 20)
    for seed in range(5):
        better = exchanged(start, seed=seed, steps=100)
        assert np.array_equal(better.degrees, start.degrees)
        assert better.symmetric
        assert score(better).nip_relative >= score(start).nip_relative * (1 - 1e-8)
    assert exchanged(start, seed=0, steps=0) == start


def test_beats_the_hypercube_of_its_degree():
    best = search(64, 6, steps=1500)[0]
    assert best.score.nip_relative > 1.05 * score(pattern("hypercube", 64)).nip_relative
    assert best.pattern.name.startswith("searched from")
    assert all(i + 1 in best.pattern.row(i) for i in range(63))


def test_the_same_seed_and_steps_find_the_same(monkeypatch):
    first = search(20, 4, seed=3, steps=150)
    assert [one.pattern for one in first] == [one.pattern for one in search(20, 4, seed=3, steps=150)]
    assert first[0].pattern != search(20, 4, seed=4, steps=150)[0].pattern
    monkeypatch.setattr(sweep, "_farthest_compiled", sweep._farthest_vectorized)  # as without numba
    assert [one.pattern for one in search(20, 4, seed=3, steps=150)] == [one.pattern for one in first]


def test_time_ends_the_exchanges():
    begin = time.monotonic()
    search(12, 3, steps=10**9, seconds=0.2)
    assert time.monotonic() - begin < 60  # a billion steps take days


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 1}, "'n' parameter of search must be an integer of at least 2. Got 1"),
        ({"degree": 0}, "'degree' parameter of search must be an integer of at least 1. Got 0"),
        ({"steps": -1}, "'steps' parameter of search"),
        ({"seed": 0.5}, "'seed' parameter of search"),
        ({"block_size": 0}, "'block_size' parameter of search"),
        ({"seconds": 0}, "'seconds' parameter of search must be a number above 0. Got 0"),
        ({"objective": "beauty"}, "one of nip_relative, bottleneck_nip_relative. Got 'beauty'"),
    ],
)
def test_refused(options, says):
    with pytest.raises(ValueError, match=says):
        search(**{"n": 8, "degree": 3, **options})


def test_numpy_integers_give_the_same_graphs():
    plain = search(8, 3, steps=5, block_size=2)
    same = search(np.int64(8), np.int32(3), seed=np.uint8(0), steps=np.int64(5), block_size=np.uint8(2))
    assert [one.pattern for one in same] == [one.pattern for one in plain]
    assert [json.dumps(one.score.to_dict()) for one in same] == [json.dumps(one.score.to_dict()) for one in plain]
