import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import hypercube, to_networkx


def by_mirror_images(n):
    """Every position is adjacent to its mirror image in each aligned block of 2, 4, 8, … that contains it."""
    edges = set()
    size = 2
    while size < 2 * n:
        for start in range(0, n, size):
            for offset in range(size // 2):
                edges.add((start + offset, start + size - 1 - offset))
        size *= 2
    return {(i, j) for i, j in edges if i < n and j < n}


def by_gray_code(n):
    """The rule of the original code."""
    gray = [i ^ (i >> 1) for i in range(n)]
    return {(i, j) for j in range(n) for i in range(j) if (gray[i] ^ gray[j]).bit_count() == 1}


def edges(p):
    return {(i, int(j)) for i in range(p.n) for j in p.row(i) if i < j}


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 12, 31, 32, 33, 100, 128])
def test_equals_the_gray_code_rule_and_the_mirror_images(n):
    cube = hypercube(n)
    assert cube.symmetric
    assert edges(cube) == by_gray_code(n) == by_mirror_images(n)


@pytest.mark.parametrize("k", range(1, 7))
def test_is_the_hypercube_of_networkx(k):
    cube = to_networkx(hypercube(2**k))
    assert nx.is_isomorphic(cube, nx.hypercube_graph(k))
    assert set(dict(cube.degree).values()) == {k}


@given(st.integers(2, 300))
def test_neighbours_in_the_sequence_are_neighbours_in_the_graph(n):
    cube = hypercube(n)
    assert all(i + 1 in cube.row(i) for i in range(n - 1))


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_shorter_cube_is_the_corner_of_a_longer_one(a, b):
    short, long = sorted((a, b))
    assert edges(hypercube(short)) == {(i, j) for i, j in edges(hypercube(long)) if j < short}
