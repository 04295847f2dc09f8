"""Conversion of patterns to and from dense masks, scipy matrices, networkx graphs and graph files.

In every format "i attends to j" is entry (i, j) of a matrix and edge i → j of a directed graph; an undirected edge is
both. Self loops are dropped, since every vertex attends to itself implicitly, and repeated edges are merged.
"""

from __future__ import annotations

import os
import warnings
import xml.etree.ElementTree
import zipfile
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nip.atomic import replacing
from nip.graphs.pattern import Pattern

if TYPE_CHECKING:
    import networkx
    import scipy.sparse


class GraphFileWarning(UserWarning):
    """Self loops of a graph file were dropped or repeated edges merged; the message gives their number."""


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


def read_graph(path: str | os.PathLike[str], *, n: int | None = None) -> Pattern:
    """Read a graph from a file; the extension determines the format.

    ============  ====================================================================================================
    ``.npz``      a file written by `Pattern.save`, or a scipy sparse matrix
    ``.npy``      a square dense mask
    ``.graphml``  GraphML, directed or undirected
    any other     an edge list: a line ``i j`` per undirected edge, vertices counted from 0, ``#`` starts a comment
    ============  ====================================================================================================

    Parameters
    ----------
    path : path-like
    n : int, optional
        Number of vertices of an edge list; default: the number stated in the file, else the largest id plus one.

    Raises
    ------
    ValueError
        If the file is not a valid graph of that format; the message names the file, and the line of an edge list.
    FileNotFoundError
        If the file does not exist.

    Warns
    -----
    GraphFileWarning
        If self loops were dropped or repeated edges merged.
    """
    path = Path(path)
    ending = path.suffix.lower()
    try:
        if ending == ".npz":
            return _read_npz(path)
        if ending == ".npy":
            return from_mask(np.load(path, allow_pickle=False), name=path.stem)
        if ending == ".graphml":
            return _read_graphml(path)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error
    return _read_edge_list(path, n)


def write_graph(pattern: Pattern, path: str | os.PathLike[str]) -> Path:
    """Write a graph atomically, in the format given by the extension (see `read_graph`).

    GraphML and edge lists store the graph without its name; an edge list cannot store a directed graph, and only
    ``.npz`` stores causality.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".npz":
        return pattern.save(path)
    if pattern.causal:
        raise ValueError(f"{path}: only .npz stores that a pattern is causal. Save {pattern!r} as .npz.")
    if ending not in (".npy", ".graphml") and not pattern.symmetric:
        raise ValueError(f"{path}: an edge list stores undirected graphs only. Save {pattern!r} as .npz or .graphml.")
    with replacing(path) as file:
        if ending == ".npy":
            np.save(file, to_mask(pattern))
        elif ending == ".graphml":
            import networkx as nx

            nx.write_graphml(to_networkx(pattern), file)
        else:
            rows = pattern.edge_rows
            once = rows < pattern.indices
            lines = [f"{i} {j}\n" for i, j in zip(rows[once].tolist(), pattern.indices[once].tolist(), strict=True)]
            # The comment keeps the number of vertices if the last ones have no edge.
            file.write("".join([f"# {pattern.n} vertices\n", *lines]).encode())
    return path


def _node_number(node: Hashable) -> int:
    if isinstance(node, int):
        return node
    return int(node) if isinstance(node, str) and node.isascii() and node.isdigit() else -1


def _read_npz(path: Path) -> Pattern:
    import scipy.sparse

    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
    if "nip_pattern" in names:
        return Pattern.load(path)
    if "format" in names and "shape" in names:
        return from_scipy(scipy.sparse.load_npz(path), name=path.stem)
    raise ValueError(
        "an .npz file must be written by Pattern.save or scipy.sparse.save_npz. "
        f"Got the arrays {', '.join(sorted(names))}."
    )


def _read_graphml(path: Path) -> Pattern:
    import networkx as nx

    try:
        graph = nx.read_graphml(path)
    except (nx.NetworkXError, xml.etree.ElementTree.ParseError, KeyError) as error:
        raise ValueError(f"not a GraphML graph that networkx reads: {error}") from error
    edges = list(graph.edges())
    loops = sum(u == v for u, v in edges)
    ends = {(u, v) if graph.is_directed() else frozenset((u, v)) for u, v in edges if u != v}
    _warn_dropped(path, loops, len(edges) - loops - len(ends))
    return from_networkx(graph, name=path.stem)


def _read_edge_list(path: Path, n: int | None) -> Pattern:
    ends: list[tuple[int, int]] = []
    stated: int | None = None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: an edge list is a text file, one edge `i j` per line. Got binary data.") from error
    for line_number, line in enumerate(lines, start=1):
        content, _, comment = line.partition("#")
        words = content.split()
        if not words:
            remark = comment.split()
            if len(remark) == 2 and remark[0].isdigit() and remark[1] == "vertices":
                stated = int(remark[0])
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
            raise ValueError(
                f"{path}, line {line_number}: expected two vertex ids `i j`, integers of at least 0. "
                f"Got {line.strip()!r}."
            )
        i, j = int(words[0]), int(words[1])
        ends.append((i, j))
    size = n if n is not None else stated
    largest = max((max(edge) for edge in ends), default=-1)
    if size is None:
        size = largest + 1
    if size == 0:
        raise ValueError(f"{path}: contains no edge. Give the number of vertices to read a graph without edges.")
    if largest >= size:
        raise ValueError(f"{path}: vertex {largest} is outside a graph of {size} vertices, which are counted from 0.")
    unique = {(min(edge), max(edge)) for edge in ends}
    loops = sum(i == j for i, j in ends)
    unique = {(i, j) for i, j in unique if i != j}
    _warn_dropped(path, loops, len(ends) - loops - len(unique))
    array = np.array(sorted(unique), dtype=np.int64).reshape(-1, 2)
    return Pattern.from_edges(size, array[:, 0], array[:, 1], symmetric=True, name=path.stem)


def _warn_dropped(path: Path, loops: int, repeated: int) -> None:
    if loops:
        warnings.warn(
            f"{path}: {loops} self loop{'s' * (loops > 1)} dropped: every vertex attends to itself implicitly.",
            GraphFileWarning,
            stacklevel=4,
        )
    if repeated:
        warnings.warn(
            f"{path}: {repeated} repeated edge{'s' * (repeated > 1)} merged: an edge counts once.",
            GraphFileWarning,
            stacklevel=4,
        )
