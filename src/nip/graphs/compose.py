"""Operations on patterns: union, symmetrization, induced subgraph, causal mask, renumbering, lift to tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from nip.graphs.pattern import Pattern, check_int, not_traced


@not_traced
def union(first: Pattern, *others: Pattern) -> Pattern:
    """The union of the edges of patterns on the same n vertices, all causal or none.

    Raises
    ------
    ValueError
        If the patterns differ in n, or some are causal and some are not.
    """
    patterns = (first, *others)
    for other in others:
        if other.n != first.n or other.causal != first.causal:
            raise ValueError(
                f"A union needs patterns of the same n, all causal or none. Got {first!r} (causal {first.causal}) "
                f"and {other!r} (causal {other.causal}) instead."
            )
    rows = np.concatenate([p.edge_rows for p in patterns])
    columns = np.concatenate([p.indices for p in patterns])
    return Pattern.from_edges(first.n, rows, columns, causal=first.causal, name="∪".join(p.name for p in patterns))


@not_traced
def undirected(pattern: Pattern) -> Pattern:
    """Add the reverse of every edge; a causal pattern raises ValueError."""
    if pattern.causal:
        raise ValueError(f"A causal pattern cannot be made undirected. Got {pattern!r}.")
    name = pattern.name if pattern.symmetric else f"{pattern.name} undirected"
    return Pattern.from_edges(
        pattern.n, pattern.edge_rows, pattern.indices, symmetric=True, name=name, parameters=pattern.parameters
    )


@not_traced
def corner(pattern: Pattern, n: int) -> Pattern:
    """The induced subgraph on the first `n` vertices: the part of a pattern that a shorter input uses.

    A causal pattern stays causal.

    Raises
    ------
    ValueError
        If `n` is less than 1 or greater than the pattern's n.

    Examples
    --------
    >>> from nip.graphs.hypercube import hypercube
    >>> corner(hypercube(8), 3).row(1).tolist()
    [0, 2]
    """
    n = check_int("n", n, "corner", minimum=1)
    if n > pattern.n:
        raise ValueError(f"The 'n' parameter of corner must be at most the pattern's n = {pattern.n}. Got {n} instead.")
    rows = pattern.edge_rows
    kept = (rows < n) & (pattern.indices < n)
    name = f"{pattern.name} on the first {n} of {pattern.n}"
    return Pattern.from_edges(n, rows[kept], pattern.indices[kept], name=name, causal=pattern.causal)


@not_traced
def causal(pattern: Pattern) -> Pattern:
    """Apply the causal (triangular) mask: attend to earlier vertices only, and within a block to earlier tokens only.

    Causality is a property of the pattern: lifting, scoring and attention all apply it. The result keeps the name and
    has ``causal=True`` among its parameters, so that `nip.pattern` rebuilds it.

    Examples
    --------
    >>> from nip.graphs.windows import complete
    >>> causal(complete(4)).row(2).tolist(), lift(causal(complete(2)), 2).row(2).tolist()
    ([0, 1], [0, 1])
    """
    rows = pattern.edge_rows
    earlier = pattern.indices < rows
    return Pattern.from_edges(
        pattern.n,
        rows[earlier],
        pattern.indices[earlier],
        name=pattern.name,
        parameters={**pattern.parameters, "causal": True},
        causal=True,
    )


@not_traced
def permute(pattern: Pattern, order: ArrayLike) -> Pattern:
    """Renumber the vertices: vertex ``order[i]`` of `pattern` becomes vertex i. Scores do not change.

    `order`, of shape (n,), is a permutation of 0 … n − 1.
    """
    old = np.asarray(order)
    if old.shape != (pattern.n,) or not np.array_equal(np.sort(old), np.arange(pattern.n)):
        raise ValueError(
            f"The order of permute must contain every vertex 0 … {pattern.n - 1} once. Got {order!r} instead."
        )
    if pattern.causal:
        raise ValueError("Permute before making a pattern causal: renumbering changes which vertices are earlier.")
    new = np.empty(pattern.n, dtype=np.int64)
    new[old] = np.arange(pattern.n)
    return Pattern.from_edges(pattern.n, new[pattern.edge_rows], new[pattern.indices], name=f"{pattern.name} permuted")


@not_traced
def lift(pattern: Pattern, block_size: int) -> Pattern:
    """The token graph of a block pattern: two tokens are adjacent if their blocks are adjacent or equal.

    In a causal pattern a token attends only to the earlier tokens of its own block. The result has ``n · block_size``
    vertices and about ``block_size²`` times the edges. It is for tests and small graphs: scoring and attention do not
    need it.
    """
    block_size = check_int("block_size", block_size, "lift", minimum=1)
    b = block_size
    block_rows = np.concatenate([pattern.edge_rows, np.arange(pattern.n)])
    block_columns = np.concatenate([pattern.indices, np.arange(pattern.n)])
    inner_rows, inner_columns = np.divmod(np.arange(b * b), b)
    rows = (block_rows[:, None] * b + inner_rows).ravel()
    columns = (block_columns[:, None] * b + inner_columns).ravel()
    if pattern.causal:
        rows, columns = rows[columns < rows], columns[columns < rows]
    return Pattern.from_edges(pattern.n * b, rows, columns, name=f"{pattern.name} lifted by {b}", causal=pattern.causal)


@not_traced
def rename(pattern: Pattern, name: str) -> Pattern:
    """The same graph under another name, without parameters."""
    return dataclasses.replace(pattern, name=name, parameters={})
