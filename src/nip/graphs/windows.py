"""Deterministic patterns: complete, sliding window, global blocks, and window with global blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import Pattern, check_int, not_traced

Edges = tuple[NDArray[np.int64], NDArray[np.int64]]


@not_traced
def complete(n: int) -> Pattern:
    """Every vertex attends to every other: dense attention. Registered as ``softmax``.

    Examples
    --------
    >>> complete(4).row(1).tolist()
    [0, 2, 3]
    """
    n = check_int("n", n, "softmax", minimum=1)
    columns = np.tile(np.arange(n), n)
    others = columns[np.arange(n * n) % (n + 1) != 0]  # without the diagonal
    return Pattern(n, np.arange(n + 1) * (n - 1), others, name="softmax")


@not_traced
def local_window(n: int, *, num_sliding_window_blocks: int = 3) -> Pattern:
    """Vertex i attends to the vertices j with |i − j| ≤ w // 2. Registered as ``local``.

    A window of w = 3 is one vertex on either side; w = 1 (and 0) attends to itself only.

    Examples
    --------
    >>> local_window(5).row(2).tolist()
    [1, 3]
    """
    n = check_int("n", n, "local", minimum=1)
    rows, columns = window_edges(n, num_sliding_window_blocks, "local")
    parameters = {"num_sliding_window_blocks": num_sliding_window_blocks}
    return Pattern.from_edges(n, rows, columns, name="local", parameters=parameters)


@not_traced
def global_tokens(n: int, *, num_global_blocks: int = 1) -> Pattern:
    """The first g vertices attend to all and are attended by all; g = 1 is a star. Registered as ``global``.

    Examples
    --------
    >>> global_tokens(4).row(0).tolist(), global_tokens(4).row(2).tolist()
    ([1, 2, 3], [0])
    """
    n = check_int("n", n, "global", minimum=1)
    rows, columns = global_edges(n, num_global_blocks, "global")
    parameters = {"num_global_blocks": num_global_blocks}
    return Pattern.from_edges(n, rows, columns, symmetric=True, name="global", parameters=parameters)


@not_traced
def longformer(n: int, *, num_global_blocks: int = 1, num_sliding_window_blocks: int = 3) -> Pattern:
    """The union of `global_tokens` and `local_window`, as in Longformer (arXiv 2004.05150).

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    num_global_blocks : int, default=1
        As for `global_tokens`.
    num_sliding_window_blocks : int, default=3
        As for `local_window`.

    Returns
    -------
    Pattern

    Examples
    --------
    >>> longformer(6).row(3).tolist()
    [0, 2, 4]
    """
    n = check_int("n", n, "longformer", minimum=1)
    rows, columns = map(
        np.concatenate,
        zip(
            global_edges(n, num_global_blocks, "longformer"),
            window_edges(n, num_sliding_window_blocks, "longformer"),
            strict=True,
        ),
    )
    parameters = {"num_global_blocks": num_global_blocks, "num_sliding_window_blocks": num_sliding_window_blocks}
    return Pattern.from_edges(n, rows, columns, symmetric=True, name="longformer", parameters=parameters)


def window_edges(n: int, num_sliding_window_blocks: int, caller: str) -> Edges:
    """Both directions of every edge of a sliding window of w blocks: |i − j| ≤ w // 2.

    Parameters
    ----------
    n : int
        Number of vertices.
    num_sliding_window_blocks : int
        The window w.
    caller : str
        The pattern that an error message names.

    Returns
    -------
    rows, columns : ndarray of shape (n_edges,)
    """
    num_sliding_window_blocks = check_int("num_sliding_window_blocks", num_sliding_window_blocks, caller, minimum=0)
    reach = min(num_sliding_window_blocks // 2, n - 1)
    rows = np.repeat(np.arange(n), 2 * reach + 1)
    columns = rows + np.tile(np.arange(-reach, reach + 1), n)
    inside = (columns >= 0) & (columns < n)
    return rows[inside], columns[inside]


def global_edges(n: int, num_global_blocks: int, caller: str) -> Edges:
    """One direction of every edge that joins one of the first g vertices to another.

    Parameters
    ----------
    n : int
        Number of vertices.
    num_global_blocks : int
        The number g of global vertices.
    caller : str
        The pattern that an error message names.

    Returns
    -------
    rows, columns : ndarray of shape (n_edges,)
    """
    num_global_blocks = check_int("num_global_blocks", num_global_blocks, caller, minimum=0)
    rows, columns = np.divmod(np.arange(min(num_global_blocks, n) * n), n)
    return rows, columns
