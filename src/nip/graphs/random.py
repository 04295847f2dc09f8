"""Patterns with random blocks: random, BigBird, window with random.

Every row draws among the vertices that it does not attend to yet, so the graph is directed; ``symmetric=True`` adds the
reverse of every edge. Draws use the raw bits of a separate PCG64 generator: no library version changes a graph, and the
global generator is never touched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import Pattern, check_int, not_traced
from nip.graphs.windows import global_edges, window_edges


@not_traced
def random_rows(n: int, *, num_random_blocks: int = 4, seed: int = 0, symmetric: bool = False) -> Pattern:
    """Every vertex attends to `num_random_blocks` others drawn at random. Registered as ``random``.

    With 128 vertices or more such a graph is rarely strongly connected (some vertex is attended by none), and its score
    is then 0.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    num_random_blocks : int, default=4
        Vertices drawn per row; if fewer are left, all of them.
    seed : int, default=0
        The same seed gives the same graph on every machine.
    symmetric : bool, default=False
        Add the reverse of every edge.

    Returns
    -------
    Pattern

    Examples
    --------
    >>> random_rows(64).degrees.tolist() == [4] * 64
    True
    """
    return _window_global_random("random", n, num_random=num_random_blocks, seed=seed, symmetric=symmetric)


@not_traced
def bigbird(
    n: int,
    *,
    num_global_blocks: int = 1,
    num_random_blocks: int = 4,
    num_sliding_window_blocks: int = 3,
    seed: int = 0,
    symmetric: bool = False,
) -> Pattern:
    """Global, window and random blocks, as in BigBird (arXiv 2007.14062); the defaults are the NIP paper's.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    num_global_blocks : int, default=1
        As for `global_tokens`.
    num_random_blocks, seed, symmetric
        As for `random_rows`; rows draw among the vertices that are neither global nor in the window.
    num_sliding_window_blocks : int, default=3
        As for `local_window`.

    Returns
    -------
    Pattern
    """
    return _window_global_random(
        "bigbird",
        n,
        num_global=num_global_blocks,
        num_random=num_random_blocks,
        num_window=num_sliding_window_blocks,
        seed=seed,
        symmetric=symmetric,
    )


@not_traced
def local_random(
    n: int, *, num_random_blocks: int = 5, num_sliding_window_blocks: int = 3, seed: int = 0, symmetric: bool = False
) -> Pattern:
    """A sliding window and random blocks. Registered as ``local+random``.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    num_random_blocks, num_sliding_window_blocks, seed, symmetric
        As for `bigbird`.

    Returns
    -------
    Pattern
    """
    return _window_global_random(
        "local+random",
        n,
        num_random=num_random_blocks,
        num_window=num_sliding_window_blocks,
        seed=seed,
        symmetric=symmetric,
    )


def _window_global_random(
    name: str, n: int, *, num_global: int = 0, num_random: int, num_window: int = 0, seed: int, symmetric: bool
) -> Pattern:
    n = check_int("n", n, name, minimum=1)
    num_random = check_int("num_random_blocks", num_random, name, minimum=0)
    seed = check_int("seed", seed, name, minimum=0)
    if not isinstance(symmetric, bool):
        raise ValueError(f"The 'symmetric' parameter of {name} must be true or false. Got {symmetric!r} instead.")
    hubs, leaves = global_edges(n, num_global, name)
    near = window_edges(n, num_window, name)
    certain = Pattern.from_edges(n, [*hubs, *leaves, *near[0]], [*leaves, *hubs, *near[1]])
    rows, columns = draw_rows(certain, num_random, seed)
    parameters: dict[str, int | bool] = {"num_random_blocks": num_random, "seed": seed, "symmetric": symmetric}
    if name == "bigbird":
        parameters = {"num_global_blocks": num_global, **parameters}
    if name != "random":
        parameters = {"num_sliding_window_blocks": num_window, **parameters}
    fixed_rows = certain.edge_rows
    return Pattern.from_edges(
        n,
        np.concatenate([fixed_rows, rows]),
        np.concatenate([certain.indices, columns]),
        symmetric=symmetric,
        name=name,
        parameters=parameters,
    )


def draw_rows(attended: Pattern, per_row: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `per_row` distinct vertices for every vertex that it does not attend to yet; all if there are fewer.

    Parameters
    ----------
    attended : Pattern
        The edges that exist already.
    per_row : int
    seed : int

    Returns
    -------
    rows, columns : ndarray of shape (n_edges,)
        Vertex ``rows[e]`` attends to ``columns[e]``.
    """
    n = attended.n
    raw = np.random.PCG64(seed).random_raw
    rows: list[int] = []
    columns: list[int] = []
    for i in range(n):
        taken = {i, *attended.row(i).tolist()}
        if n - len(taken) <= per_row:
            drawn = sorted(set(range(n)) - taken)
        else:
            drawn = []
            while len(drawn) < per_row:
                j = below(n, raw)
                if j not in taken:
                    taken.add(j)
                    drawn.append(j)
        rows.extend([i] * len(drawn))
        columns.extend(drawn)
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)


def below(n: int, raw: Callable[[], int]) -> int:
    """A uniform integer in [0, n) from a source of uniform 64-bit integers."""
    limit = 2**64 - 2**64 % n  # rejecting larger values keeps the remainder unbiased
    while (bits := int(raw())) >= limit:
        pass
    return bits % n
