import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import causal, corner, lift, pattern, permute, rename, to_mask, undirected, union
from strategies import any_patterns, custom_patterns


@given(custom_patterns(), st.integers(1, 4))
def test_lift_repeats_the_mask(p, b):
    assert np.array_equal(to_mask(lift(p, b)), np.kron(to_mask(p), np.ones((b, b), dtype=bool)))


@given(custom_patterns(), st.integers(1, 4))
def test_causal_lift_is_the_lower_triangle(p, b):
    lifted = lift(causal(p), b)
    assert lifted.causal
    assert np.array_equal(to_mask(lifted), np.tril(np.kron(to_mask(p), np.ones((b, b), dtype=bool))))


@given(any_patterns())
def test_causal_twice_is_causal_once(p):
    assert causal(causal(p)) == causal(p)


def test_a_causal_pattern_is_rebuilt_by_name():
    made = causal(pattern("bigbird", 32, seed=2))
    assert made == pattern("bigbird", 32, seed=2, causal=True) == pattern(made.name, made.n, **made.parameters)


@given(custom_patterns())
def test_undirected_is_the_mask_or_its_transpose(p):
    mask = to_mask(p)
    assert np.array_equal(to_mask(undirected(p)), mask | mask.T)


@given(st.integers(1, 20), st.permutations(range(12)))
def test_permute_renumbers_rows_and_columns(n, order):
    p = pattern("bigbird", len(order), seed=n)
    assert np.array_equal(to_mask(permute(p, order)), to_mask(p)[np.ix_(order, order)])
    assert permute(permute(p, order), np.argsort(order)) == p


def test_union_is_the_or_of_the_masks():
    parts = [pattern("global", 12), pattern("local", 12), pattern("random", 12, seed=4)]
    joined = union(*parts)
    assert np.array_equal(to_mask(joined), np.logical_or.reduce([to_mask(p) for p in parts]))
    assert joined.name == "global∪local∪random"


def test_rename_keeps_the_graph():
    p = pattern("bigbird", 20)
    assert rename(p, "mine") == p
    assert (rename(p, "mine").name, dict(rename(p, "mine").parameters)) == ("mine", {})


def test_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="same n"):
        union(pattern("local", 4), pattern("local", 5))
    with pytest.raises(ValueError, match="all causal or none"):
        union(pattern("local", 4), pattern("local", 4, causal=True))
    with pytest.raises(ValueError, match="cannot be made undirected"):
        undirected(pattern("local", 4, causal=True))
    with pytest.raises(ValueError, match="once"):
        permute(pattern("local", 4), [0, 1, 1, 3])
    with pytest.raises(ValueError, match="earlier"):
        permute(pattern("local", 4, causal=True), [3, 2, 1, 0])
    with pytest.raises(ValueError, match="'block_size' parameter of lift"):
        lift(pattern("local", 4), 0)


@given(any_patterns(), st.data())
def test_a_corner_is_the_induced_subgraph(p, data):
    n = data.draw(st.integers(1, p.n))
    assert np.array_equal(to_mask(corner(p, n)), to_mask(p)[:n, :n])
    assert corner(p, n).causal == p.causal


def test_corners_of_families_that_grow_from_a_corner():
    assert corner(pattern("hypercube", 40), 13) == pattern("hypercube", 13)
    assert corner(pattern("local", 9, causal=True), 4) == pattern("local", 4, causal=True)


def test_no_corner_is_larger_than_the_pattern():
    with pytest.raises(ValueError, match=r"'n' parameter of corner must be at most the pattern's n = 8\. Got 9"):
        corner(pattern("hypercube", 8), 9)
    with pytest.raises(ValueError, match="'n' parameter of corner must be an integer of at least 1"):
        corner(pattern("hypercube", 8), 0)
