from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from nip.graphs import Pattern, expander, from_networkx, hypercube, permute
from nip.graphs.hamilton import path_order


def adjacent(p, order):
    return sum(j in p.row(i) for i, j in pairwise(order))


@pytest.mark.parametrize(
    "graph",
    [nx.petersen_graph(), nx.dodecahedral_graph(), nx.cycle_graph(40), nx.LCF_graph(30, [-13, -9, 7, -7, 9, 13], 5)],
)
def test_finds_the_path_of_small_graphs(graph):
    p = from_networkx(graph)
    order = path_order(p)
    assert sorted(order) == list(range(p.n))
    assert order[0] == 0
    assert adjacent(p, order) == p.n - 1


def test_a_shuffled_cube_gets_neighbours_side_by_side_again():
    shuffled = permute(hypercube(256), np.random.default_rng(3).permutation(256))
    ordered = permute(shuffled, path_order(shuffled))
    assert all(i + 1 in ordered.row(i) for i in range(255))
    assert sorted(ordered.degrees) == [8] * 256


def test_the_longest_path_found_is_returned_without_a_hamiltonian_path():
    star = from_networkx(nx.star_graph(5))
    order = path_order(star, start=1)
    assert sorted(order) == list(range(6))
    assert adjacent(star, order) == 2
    alone = Pattern.from_edges(3, [], [])
    assert path_order(alone, start=2).tolist() == [2, 0, 1]
    assert path_order(Pattern.from_edges(1, [], [])).tolist() == [0]


def test_the_same_graph_gets_the_same_order():
    assert np.array_equal(path_order(expander(100)), path_order(expander(100)))
