"""Conversion of patterns to and from dense masks, scipy matrices and networkx graphs.

In every format "i attends to j" is entry (i, j) of a matrix and edge i → j of a directed graph; an undirected edge is
both. Self loops are dropped, since every vertex attends to itself implicitly, and repeated edges are merged.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nip.graphs.pattern import Pattern

if TYPE_CHECKING:
    import networkx
    import scipy.sparse


def to_mask(pattern: Pattern) -> NDArray[np.bool_]:
    """The dense mask, bool of shape (n, n): entry (i, j) is True if i attends to j, and the diagonal is True."""
    mask = np.eye(pattern.n, dtype=bool)
    mask[pattern.edge_rows, pattern.indices] = True
    return mask


def from_mask(mask: ArrayLike, *, name: str = "custom") -> Pattern:
    """Build a pattern from a dense mask of shape (n, n): i attends to j if entry (i, j) is nonzero.

    The values on the diagonal are ignored: every vertex attends to itself.

    Raises
    ------
    ValueError
        If the mask is not square, or its values are not booleans or finite numbers.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] == 0:
        raise ValueError(
            f"A mask must be a square matrix, with a row and a column per vertex. Got shape {array.shape}."
        )
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise ValueError(f"A mask must contain booleans or finite numbers. Got {array.dtype} with other values.")
    rows, columns = np.nonzero(array)
    return Pattern.from_edges(array.shape[0], rows, columns, name=name)


def to_scipy(pattern: Pattern) -> scipy.sparse.csr_array[Any]:
    """The adjacency matrix as a scipy sparse array of shape (n, n), int8, without the diagonal."""
    import scipy.sparse

    ones = np.ones(pattern.n_edges, dtype=np.int8)
    return scipy.sparse.csr_array((ones, pattern.indices.copy(), pattern.indptr.copy()), shape=(pattern.n, pattern.n))


def from_scipy(matrix: Any, *, name: str = "custom") -> Pattern:
    """Build a pattern from a square scipy sparse matrix or array: i attends to j if entry (i, j) is nonzero."""
    if matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"A matrix must be square, with a row and a column per vertex. Got shape {matrix.shape}.")
    coordinates = matrix.tocoo()
    present = coordinates.data != 0
    return Pattern.from_edges(matrix.shape[0], coordinates.row[present], coordinates.col[present], name=name)


def to_networkx(pattern: Pattern) -> networkx.Graph[int]:
    """Convert a pattern to a networkx graph on the nodes 0 … n − 1.

    A symmetric pattern gives a Graph, any other a DiGraph in which i → j means that i attends to j.
    """
    import networkx as nx

    graph: networkx.Graph[int] = nx.Graph() if pattern.symmetric else nx.DiGraph()
    graph.add_nodes_from(range(pattern.n))
    rows = pattern.edge_rows
    graph.add_edges_from(zip(rows.tolist(), pattern.indices.tolist(), strict=True))
    return graph


def from_networkx(graph: networkx.Graph[Any], *, name: str = "custom") -> Pattern:
    """Build a pattern from a networkx graph; in a directed one, u → v means that u attends to v.

    Nodes that are the integers 0 … n − 1 (or their decimal strings, as in GraphML) keep their number; otherwise nodes
    are numbered in the graph's order.
    """
    nodes = list(graph.nodes)
    if not nodes:
        raise ValueError("A graph must have at least one node. Got an empty one.")
    numbers = [_node_number(node) for node in nodes]
    if set(numbers) == set(range(len(nodes))):
        number = dict(zip(nodes, numbers, strict=True))
    else:
        number = {node: i for i, node in enumerate(nodes)}
    edges = [(number[u], number[v]) for u, v in graph.edges()]
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return Pattern.from_edges(len(nodes), ends[:, 0], ends[:, 1], symmetric=not graph.is_directed(), name=name)


def _node_number(node: Hashable) -> int:
    if isinstance(node, int):
        return node
    return int(node) if isinstance(node, str) and node.isascii() and node.isdigit() else -1
