"""Graph files: reading the formats that people have, writing three of them.

A file leaves open what its program knew: whether vertices are counted from 0 or 1, whether a line is an edge or an arc.
Where the usual interpretation leaves vertices without an edge, or unreachable, so that the score is 0, a
`GraphFileWarning` names the interpretation and the option that changes it.
"""

from __future__ import annotations

import gzip
import io
import os
import warnings
import xml.etree.ElementTree
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.graphs.compose import undirected as both_directions
from nip.graphs.exchange import from_mask, from_networkx, from_scipy, to_mask, to_networkx, to_scipy
from nip.graphs.pattern import Pattern

if TYPE_CHECKING:
    import networkx

LARGEST_FILE = 1 << 30  # bytes, unpacked
# Ids this far beyond the number of vertices that have an edge are names, not numbers.
_FEW, _SPARSEST = 10_000, 100


class GraphFileWarning(UserWarning):
    """A graph file is read in a way that drops something, or that makes the score 0; the message says what to do."""


@dataclass
class Edges:
    """The edges of a file as they are written, and what the file says about its vertices.

    Parameters
    ----------
    ends : list of (int, int)
    size : int or None
        The number of vertices that the file states.
    first : int or None
        The number of the first vertex, where the format defines it.
    directed : bool, default=False
    weighted : bool, default=False
        Whether there were weights.
    """

    ends: list[tuple[int, int]]
    size: int | None = None
    first: int | None = None
    directed: bool = False
    weighted: bool = False


def read_graph(
    path: str | os.PathLike[str],
    *,
    n: int | None = None,
    first_vertex: int | None = None,
    relabel: bool = False,
    undirected: bool = False,
) -> Pattern:
    """Read a graph from a file; the extension determines the format, ``.gz`` may follow it.

    ===================  =============================================================================================
    ``.npz``             a file written by `Pattern.save`, or a scipy sparse matrix
    ``.npy``             a square dense mask
    ``.graphml``         GraphML, directed or undirected
    ``.gexf``, ``.gml``  GEXF (Gephi) and GML, directed or undirected
    ``.net``, ``.paj``   Pajek
    ``.mtx``             Matrix Market
    ``.graph``           METIS: line i lists the neighbours of vertex i, counted from 1
    ``.col``, ``.gr``,   DIMACS: ``e i j`` is an edge, ``a i j weight`` an arc, counted from 1
    ``.dimacs``
    ``.adjlist``         adjacency list: a vertex and its neighbours per line
    any other            an edge list: a line ``i j`` per undirected edge, vertices counted from 0, ``#`` or ``%``
                         starts a comment; a weight or networkx's ``{}`` may follow and is ignored
    ===================  =============================================================================================

    Parameters
    ----------
    path : path-like
    n : int, optional
        Number of vertices of an edge list; default: the number stated in the file, else the largest id plus one.
    first_vertex : int, optional
        The smallest id of an edge list, 0 by default.
    relabel : bool, default=False
        Number the vertices that have an edge in ascending order, and drop the others.
    undirected : bool, default=False
        Read every arc in both directions.

    Raises
    ------
    ValueError
        If the file is not a valid graph of that format, or an option does not apply to it; the message names the file,
        and the line of a text file.
    FileNotFoundError
        If the file does not exist.

    Warns
    -----
    GraphFileWarning
        If self loops were dropped, repeated edges merged or weights ignored; if vertices have no edge or cannot be
        reached, so that the score is 0.
    """
    path = Path(path)
    packed = path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    name = Path(path.stem).stem if packed else path.stem
    listed = ending not in _READERS
    if first_vertex is not None and not listed:
        raise ValueError(f"{path}: --first-vertex is for edge lists; a {ending} file says what its vertices are.")
    if n is not None and relabel:
        raise ValueError(f"{path}: the number of vertices and --relabel exclude each other. Give one of them.")
    if ending == ".npz":
        pattern, interpreted = _read_npz(path)
    else:
        try:
            content = _read_bytes(path, packed=packed)
            pattern = (
                _from_edges(_edge_list(content), path, name, n=n, first_vertex=first_vertex, relabel=relabel)
                if listed
                else _READERS[ending](content, path, name)
            )
        except (ValueError, EOFError, KeyError, RecursionError, xml.etree.ElementTree.ParseError) as error:
            raise ValueError(_located(path, ending, error, listed=listed)) from error
        interpreted = True
    if relabel:
        pattern = _without_isolated(pattern, path)
    if undirected and not pattern.symmetric:
        if pattern.causal:
            raise ValueError(f"{path}: the graph is stored as causal, which --undirected would undo. Leave it out.")
        pattern = both_directions(pattern)
    if interpreted:
        _warn_of_score_zero(path, pattern, from_zero=listed and first_vertex is None and not relabel)
    return pattern


def _located(path: Path, ending: str, error: BaseException, *, listed: bool) -> str:
    message = " ".join(str(error).split()) if not isinstance(error, RecursionError) else "it is nested too deeply"
    if not listed:
        message = f"it is not a {ending} graph: {message}"
    elif ending not in ("", ".txt", ".edges", ".edgelist", ".csv", ".tsv", ".el", ".ncol"):
        known = ", ".join([".npz", *_READERS])
        message += f" A file ending in {ending} is read as an edge list; other formats are {known}, also with .gz."
    return message if str(path) in message else f"{path}{'' if message.startswith(', line') else ': '}{message}"


def _read_bytes(path: Path, *, packed: bool) -> bytes:
    if not packed:
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST_FILE + 1)
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"it cannot be unpacked: {error}.") from error
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it unpacks to more than {LARGEST_FILE >> 30} GiB.")
    return content


def write_graph(pattern: Pattern, path: str | os.PathLike[str]) -> Path:
    """Write a graph atomically: ``.npz``, ``.npy``, ``.graphml``, or with any other extension an edge list.

    GraphML and edge lists store the graph without its name; an edge list cannot store a directed graph, and only
    ``.npz`` stores causality.

    Raises
    ------
    ValueError
        If the format cannot store the pattern, or the extension is one of another format that is only read.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".npz":
        return pattern.save(path)
    if ending == ".gz" or (ending in _READERS and ending not in (".npy", ".graphml")):
        raise ValueError(f"{path}: {ending} is read, not written. Save {pattern!r} as .npz, .npy, .graphml or .txt.")
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


def _read_npz(path: Path) -> tuple[Pattern, bool]:
    """The pattern, and whether its file leaves its interpretation open."""
    import scipy.sparse

    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
        if "nip_pattern" in names:
            return Pattern.load(path), False
        if "format" in names and "shape" in names:
            return from_scipy(scipy.sparse.load_npz(path), name=path.stem), True
        raise ValueError(
            "an .npz file must be written by Pattern.save or scipy.sparse.save_npz. "
            f"Got the arrays {', '.join(sorted(names))}."
        )
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error


def _read_npy(content: bytes, path: Path, name: str) -> Pattern:
    return from_mask(np.load(io.BytesIO(content), allow_pickle=False), name=name)


def _read_matrix_market(content: bytes, path: Path, name: str) -> Pattern:
    import scipy.io
    import scipy.sparse

    rows, columns, entries, *_ = scipy.io.mminfo(io.BytesIO(content))
    _check_size(max(rows, columns), entries, "entries")
    matrix = scipy.io.mmread(io.BytesIO(content))
    if not scipy.sparse.issparse(matrix):
        return from_mask(np.abs(matrix) > 0, name=name)
    pattern = from_scipy(matrix, name=name)
    values = matrix.data[matrix.data != 0]
    if values.size and (values != values[0]).any():
        _warn(f"{path}: the weights are ignored: an entry that is not 0 is an edge.")
    return pattern


def _networkx_reader(function: str, **settings: Any) -> Callable[[bytes, Path, str], Pattern]:
    """A reader by networkx's function of that name."""

    def read(content: bytes, path: Path, name: str) -> Pattern:
        import networkx as nx

        try:
            graph = getattr(nx, function)(io.BytesIO(content), **settings)
        except (nx.NetworkXException, AttributeError, TypeError, IndexError, OverflowError, StopIteration) as error:
            raise ValueError(f"networkx does not read it: {error}") from error
        return _from_graph(graph, path, name)

    return read


def _from_graph(graph: networkx.Graph[Any], path: Path, name: str) -> Pattern:
    edges = list(graph.edges())
    loops = sum(u == v for u, v in edges)
    ends = {(u, v) if graph.is_directed() else frozenset((u, v)) for u, v in edges if u != v}
    _warn_dropped(path, loops, len(edges) - loops - len(ends))
    if any(str(data.get("weight", 1)) not in ("1", "1.0") for *_, data in graph.edges(data=True)):
        _warn(f"{path}: the weights are ignored: every edge counts the same.")
    return from_networkx(graph, name=name)


def _read_adjacency_list(content: bytes, path: Path, name: str) -> Pattern:
    import networkx as nx

    lines = _lines(content, "an adjacency list is a text file, a vertex and its neighbours per line")
    graph = nx.parse_adjlist(lines)
    if all(node.isascii() and node.isdigit() for node in graph):  # not in the order in which they are mentioned
        ordered: networkx.Graph[str] = nx.Graph()
        ordered.add_nodes_from(sorted(graph, key=int))
        ordered.add_edges_from(graph.edges)
        graph = ordered
    return _from_graph(graph, path, name)


def _read_metis(content: bytes, path: Path, name: str) -> Pattern:
    lines = _lines(content, "a METIS graph is a text file")
    if content.lstrip().startswith(b"#"):  # an edge list, as write_graph once gave it any name
        return _from_edges(_edge_list(content), path, name)
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if not line.startswith("%")]
    while numbered and not numbered[0][1].split():
        numbered.pop(0)
    if not numbered:
        raise ValueError("it has no line with the number of vertices and edges.")
    head = [_integer(word, numbered[0]) for word in numbered[0][1].split()]
    if not 2 <= len(head) <= 4:
        raise ValueError(f", line {numbered[0][0]}: expected the number of vertices and of edges. Got {head}.")
    n, m = head[:2]
    form = f"{head[2] if len(head) > 2 else 0:03}"
    skipped = (form[0] == "1") + (head[3] if len(head) > 3 else 1) * (form[1] == "1")
    step = 2 if form[2] == "1" else 1
    rows = numbered[1:]
    while len(rows) > n and not rows[-1][1].split():
        rows.pop()
    if len(rows) != n:
        raise ValueError(f"it states {n} vertices and has {len(rows)} lines of neighbours.")
    ends = [(i, _integer(word, row)) for i, row in enumerate(rows, start=1) for word in row[1].split()[skipped::step]]
    pattern = _from_edges(Edges(ends, n, 1, weighted=form != "000"), path, name, twice=True)
    if pattern.n_edges != 2 * m:
        _warn(f"{path}: it states {m} edges and has {pattern.n_edges // 2}.")
    return pattern


def _read_dimacs(content: bytes, path: Path, name: str) -> Pattern:
    edges = Edges([], first=1)
    for place in enumerate(_lines(content, "a DIMACS graph is a text file"), start=1):
        words = place[1].split()
        if not words or words[0] == "c":
            continue
        if words[0] == "p" and len(words) >= 3:
            edges.size = _integer(words[2], place)
        elif words[0] in ("e", "a") and len(words) in (3, 4):
            edges.ends.append((_integer(words[1], place), _integer(words[2], place)))
            edges.directed |= words[0] == "a"
            edges.weighted |= len(words) == 4
        elif words[0] not in ("n", "d", "v", "x"):  # labels and coordinates
            raise ValueError(f", line {place[0]}: expected `p`, `e i j` or `a i j weight`. Got {place[1].strip()!r}.")
    if edges.size is None:
        raise ValueError("it has no line `p edge VERTICES EDGES`.")
    return _from_edges(edges, path, name)


def _integer(word: str, place: tuple[int, str]) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ValueError(f", line {place[0]}: expected integers. Got {place[1].strip()[:80]!r}.")
    return int(word)


Reader = Callable[[bytes, Path, str], Pattern]
_READERS: dict[str, Reader] = {
    ".npy": _read_npy,
    ".graphml": _networkx_reader("read_graphml"),
    ".gexf": _networkx_reader("read_gexf"),
    ".gml": _networkx_reader("read_gml", label="id"),
    ".net": _networkx_reader("read_pajek"),
    ".paj": _networkx_reader("read_pajek"),
    ".mtx": _read_matrix_market,
    ".graph": _read_metis,
    ".metis": _read_metis,
    ".col": _read_dimacs,
    ".gr": _read_dimacs,
    ".dimacs": _read_dimacs,
    ".adjlist": _read_adjacency_list,
}


def _lines(content: bytes, says: str) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{says}. Got binary data.") from error


def _edge_list(content: bytes) -> Edges:
    edges = Edges([])
    for number, line in enumerate(_lines(content, "an edge list is a text file, one edge `i j` per line"), start=1):
        text, _, comment = line.partition("#")
        words = text.replace(",", " ").split() if not text.lstrip().startswith("%") else []
        if not words:
            remark = comment.split()
            if len(remark) == 2 and remark[0].isdigit() and remark[1] == "vertices":
                edges.size = int(remark[0])
            continue
        more = " ".join(words[2:])
        ids = words[:2]
        if len(ids) != 2 or not all(word.isascii() and word.isdigit() for word in ids) or not _is_weight(more):
            raise ValueError(
                f", line {number}: expected two vertex ids `i j`, integers of at least 0. Got {line.strip()[:80]!r}."
            )
        edges.weighted |= more not in ("", "{}")
        edges.ends.append((int(ids[0]), int(ids[1])))
    return edges


def _is_weight(text: str) -> bool:
    """Whether what follows two ids is nothing, a number, or networkx's dictionary of attributes."""
    if not text or (text.startswith("{") and text.endswith("}")):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_edges(
    edges: Edges,
    path: Path,
    name: str,
    *,
    n: int | None = None,
    first_vertex: int | None = None,
    relabel: bool = False,
    twice: bool = False,
) -> Pattern:
    """Build the pattern of a file's edges.

    Parameters
    ----------
    edges : Edges
    path : Path
        For messages.
    name : str
        Of the pattern.
    n, first_vertex, relabel
        As for `read_graph`.
    twice : bool, default=False
        Whether the format lists every edge at both of its ends.
    """
    first = first_vertex if first_vertex is not None else edges.first or 0
    size = n if n is not None else edges.size
    ends = np.array(edges.ends, dtype=np.int64).reshape(-1, 2) - first
    if ends.size and ends.min() < 0:
        raise ValueError(f"vertex {ends.min() + first} is below the first, {first}.")
    largest = int(ends.max(initial=-1))
    vertices, place = np.unique(ends, return_inverse=True)
    if relabel and len(vertices):
        ends, size, largest = place.reshape(-1, 2), len(vertices), len(vertices) - 1
    elif size is None:
        size = largest + 1
    if size == 0:
        raise ValueError("contains no edge. Give the number of vertices to read a graph without edges.")
    if largest >= size:
        raise ValueError(f"vertex {largest + first} is outside a graph of {size} vertices, counted from {first}.")
    if n is None:
        _check_size(size, len(vertices), "vertices with an edge")
    loops = ends[:, 0] == ends[:, 1]
    kept = ends[~loops]
    if not edges.directed:
        kept = np.sort(kept, axis=1)
    unique, counts = np.unique(kept, axis=0, return_counts=True) if len(kept) else (kept, np.zeros(0, np.int64))
    repeated = int((counts - (2 if twice else 1)).clip(min=0).sum())
    _warn_dropped(path, int(loops.sum()), repeated)
    if edges.weighted:
        _warn(f"{path}: the weights are ignored: every edge counts the same.")
    return Pattern.from_edges(size, unique[:, 0], unique[:, 1], symmetric=not edges.directed, name=name)


def _check_size(size: int, known: int, what: str) -> None:
    if size > _FEW and size > _SPARSEST * known:
        raise ValueError(
            f"it would have {size:,} vertices, of which almost none has an edge ({known:,} {what}): the ids are names. "
            "Give --relabel to number them."
        )


def _has_edge(pattern: Pattern) -> NDArray[np.bool_]:
    """For each vertex, whether it attends to another or is attended to."""
    found = np.diff(pattern.indptr) > 0
    found[pattern.indices] = True
    return found


def _without_isolated(pattern: Pattern, path: Path) -> Pattern:
    kept = _has_edge(pattern)
    if kept.all():
        return pattern
    if not kept.any():
        raise ValueError(f"{path}: contains no edge, so --relabel would leave no vertex.")
    if pattern.causal:
        raise ValueError(f"{path}: the graph is stored as causal, and --relabel would shift its tokens. Leave it out.")
    number = np.cumsum(kept) - 1
    rows, columns = number[pattern.edge_rows], number[pattern.indices]
    return Pattern.from_edges(int(kept.sum()), rows, columns, name=pattern.name)


def _warn_of_score_zero(path: Path, pattern: Pattern, *, from_zero: bool) -> None:
    """Warn if vertices have no edge or cannot be reached in one direction, and name the option that may be meant.

    Parameters
    ----------
    path : Path
    pattern : Pattern
    from_zero : bool
        Whether the ids were taken as counted from 0 without being told so.
    """
    from scipy.sparse.csgraph import connected_components

    if pattern.n == 1:
        return
    alone = ~_has_edge(pattern)
    n_alone = int(alone.sum())
    if from_zero and n_alone == 1 and alone[0]:
        _warn(
            f"{path}: vertex 0 has no edge, so the score is 0. Ids are read as counted from 0; if they are counted "
            f"from 1, give {_option('--first-vertex 1')}."
        )
    elif n_alone:
        _warn(
            f"{path}: {n_alone:,} of {pattern.n:,} vertices have no edge, so the score is 0. If they do not exist, "
            f"give {_option('--relabel')}."
        )
    if pattern.symmetric or pattern.causal:
        return
    matrix = to_scipy(pattern)
    apart = connected_components(matrix, connection="strong", return_labels=False)
    if apart > connected_components(matrix, connection="weak", return_labels=False):
        below = bool((pattern.indices < pattern.edge_rows).all())
        _warn(
            f"{path}: it is read as a directed graph, in which not every vertex reaches every other, so the score is "
            f"0. If its edges go both ways, give {_option('--undirected')}"
            f"{', if it is a causal mask, --causal' * below}."
        )


def _option(option: str) -> str:
    """The option, and how it serves the commands that do not have it."""
    return f"{option} (to nip score, whose --output saves the graph for every command)"


def _warn_dropped(path: Path, loops: int, repeated: int) -> None:
    if loops:
        _warn(f"{path}: {loops} self loop{'s' * (loops > 1)} dropped: every vertex attends to itself implicitly.")
    if repeated:
        _warn(f"{path}: {repeated} repeated edge{'s' * (repeated > 1)} merged: an edge counts once.")


def _warn(message: str) -> None:
    warnings.warn(message, GraphFileWarning, stacklevel=4)
