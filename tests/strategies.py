"""Hypothesis strategies that several rooms' tests draw from."""

from __future__ import annotations

from hypothesis import strategies as st

from nip.graphs import Pattern, causal, names_at, pattern


@st.composite
def custom_patterns(draw: st.DrawFn, max_n: int = 8, *, directed: bool | None = None) -> Pattern:
    """Any graph of up to `max_n` vertices, connected or not."""
    n = draw(st.integers(1, max_n))
    vertices = st.integers(0, n - 1)
    edges = draw(st.lists(st.tuples(vertices, vertices), max_size=3 * n))
    one_way = draw(st.booleans()) if directed is None else directed
    return Pattern.from_edges(n, [i for i, _ in edges], [j for _, j in edges], symmetric=not one_way)


@st.composite
def connected_patterns(draw: st.DrawFn, max_n: int = 8) -> Pattern:
    """Undirected connected graphs: a random tree and some more edges."""
    n = draw(st.integers(2, max_n))
    tree = [(i, draw(st.integers(0, i - 1))) for i in range(1, n)]
    vertices = st.integers(0, n - 1)
    edges = tree + draw(st.lists(st.tuples(vertices, vertices), max_size=n))
    return Pattern.from_edges(n, [i for i, _ in edges], [j for _, j in edges], symmetric=True)


@st.composite
def named_patterns(draw: st.DrawFn, max_n: int = 20) -> Pattern:
    """Any named pattern at any size that it has, as it is or causal."""
    n = draw(st.integers(1, max_n))
    return pattern(draw(st.sampled_from(names_at(n))), n, causal=draw(st.booleans()))


def any_patterns(max_n: int = 8) -> st.SearchStrategy[Pattern]:
    """Named and custom, directed and undirected, causal and not."""
    custom = custom_patterns(max_n)
    return st.one_of(custom, custom.map(causal), connected_patterns(max_n), named_patterns(max_n))
