"""Reach and payload at a depth, against distances by networkx and powers of the lifted matrix of attention."""

import math
import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import Pattern, lift, pattern, to_mask, to_networkx
from nip.scoring.reach import reach
from strategies import any_patterns


@given(any_patterns(), st.integers(1, 4), st.integers(1, 3))
def test_equals_powers_of_the_token_matrix(graph, steps, block_size):
    mask = to_mask(lift(graph, block_size)).astype(float)
    np.fill_diagonal(mask, 1.0)
    power = np.linalg.matrix_power(mask / mask.sum(axis=1, keepdims=True), steps)
    n = len(mask)
    pairs = np.tril(np.ones((n, n), bool), -1) if graph.causal else ~np.eye(n, dtype=bool)
    found = reach(graph, steps, block_size)
    effective = [math.exp(-sum(p * math.log(p) for p in row if p > 0)) for row in power]
    could = np.arange(1, n + 1) if graph.causal else np.full(n, n)
    assert found.even_reach == pytest.approx(np.mean(effective / could), rel=1e-9)
    if not pairs.any():
        assert found.reach is None and found.log10_least_payload is None
        return
    assert found.reach == pytest.approx((power[pairs] > 0).mean(), rel=1e-12)
    least = power[pairs].min()
    assert found.log10_least_payload == pytest.approx(math.log10(least) if least > 0 else -math.inf, abs=1e-9)


@given(any_patterns(max_n=10), st.integers(1, 5))
def test_reach_is_the_share_of_pairs_within_the_distance(graph, steps):
    if graph.causal or graph.n == 1:
        return
    away = dict(nx.all_pairs_shortest_path_length(to_networkx(graph).to_directed(), cutoff=steps))
    near = sum(len(found) - 1 for found in away.values())
    assert reach(graph, steps).reach == pytest.approx(near / (graph.n * (graph.n - 1)))


def test_a_plane_of_order_five_in_two_steps():
    """A vertex of degree 6 and girth 6 has 6 neighbours and 30 vertices two steps away."""
    plane = pattern("projective_plane", 62)
    assert reach(plane, 2).reach == 36 / 61
    assert reach(plane, 2, 8).reach == pytest.approx((37 * 8 - 1) / (62 * 8 - 1))
    assert reach(plane, 3).reach == 1


def test_the_complete_graph_and_the_longest_steps():
    complete = reach(pattern("softmax", 9), 1)
    assert complete.reach == 1 and complete.even_reach == pytest.approx(1)
    assert complete.log10_least_payload == pytest.approx(-math.log10(9))
    alone = Pattern.from_edges(3, [], [], symmetric=True)
    assert reach(alone, 4).reach == 0 and reach(alone, 4).even_reach == pytest.approx(1 / 3)


def test_a_hub_reaches_everything_but_not_evenly():
    star, cube = reach(pattern("global", 64), 2), reach(pattern("hypercube", 64), 6)
    assert star.reach == cube.reach == 1
    assert star.even_reach < 0.5 < cube.even_reach


def test_many_vertices_are_processed_in_batches(monkeypatch):
    graph = pattern("hypercube", 50)
    whole = reach(graph, 3, 4)
    monkeypatch.setattr(sys.modules["nip.scoring.reach"], "_ENTRIES_PER_BATCH", 120)  # nip.scoring.reach is a function
    parts = reach(graph, 3, 4)
    assert (parts.reach, parts.log10_least_payload) == (whole.reach, whole.log10_least_payload)
    assert parts.even_reach == pytest.approx(whole.even_reach, rel=1e-12)


@pytest.mark.parametrize(("steps", "block_size", "says"), [(0, 1, "'steps'"), (2, 0, "'block_size'")])
def test_bad_input(steps, block_size, says):
    with pytest.raises(ValueError, match=says):
        reach(pattern("hypercube", 8), steps, block_size)
