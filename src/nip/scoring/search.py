"""Search for the best graph within a degree budget: members of all families, improved by edge exchanges."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.graphs import pattern as build
from nip.graphs.compose import permute, rename
from nip.graphs.finite_fields import prime_of
from nip.graphs.hamilton import path_order
from nip.graphs.pattern import Pattern, check_int
from nip.graphs.polygons import SMALLEST, native_size
from nip.scoring import sweep
from nip.scoring.score import Score, score

OBJECTIVES = ("nip_relative", "bottleneck_nip_relative")
# Expanders drawn as candidates, and candidates from which edges are exchanged.
_EXPANDERS = 8
_STARTS = 2
# Temperatures in bits of score: at first a step may lose about half the score, at the end almost nothing.
_HOT, _COLD = 0.5, 0.01


@dataclass(frozen=True)
class Found:
    """A graph within the budget, and its score."""

    pattern: Pattern
    score: Score


def search(
    n: int,
    degree: int,
    *,
    seed: int = 0,
    steps: int = 2000,
    seconds: float | None = None,
    objective: str = "nip_relative",
    block_size: int = 1,
) -> list[Found]:
    """Search for the graph of best score in which no vertex attends to more than `degree` others.

    Parameters
    ----------
    n : int
        Number of vertices, at least 2.
    degree : int
        Maximum number of vertices that a vertex may attend to, without itself; at least 1.
    seed : int, default=0
        Of the expanders and of the edge exchanges.
    steps : int, default=2000
        Exchanges tried from each of the two starts; 0 compares the families only.
    seconds : float, optional
        Stop trying exchanges after this time. The result then depends on the machine.
    objective : str, default="nip_relative"
        Or "bottleneck_nip_relative": the sort key of the list and of the starts. The exchanges themselves optimize the
        plain payload.
    block_size : int, default=1
        Tokens per vertex, for all scores.

    Returns
    -------
    list of Found
        Best first: the members of every family within the budget, each graph once, and the results of the exchanges,
        named ``searched from …``. The first is therefore never worse than the best member of a family.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    ImportError
        If geometries of prime power order are within the budget and galois (the extra ``fast``) is not installed.

    Notes
    -----
    Simulated annealing: edges a–b and c–d become a–c and b–d, which keeps all degrees. The energy is the mean of two
    logarithms of payload over distance: that of the worst pair, which is the score, and the mean over all vertices of
    each one's worst, which changes even if the worst pair does not. A step costs one score, O(n · (n + edges)).

    Examples
    --------
    >>> best = search(6, 3, steps=50)[0]
    >>> round(best.score.nip_relative, 4), best.score.max_degree  # that of the graph K3,3
    (1.3889, 3)
    """
    n = check_int("n", n, "search", minimum=2)
    degree = check_int("degree", degree, "search", minimum=1)
    seed = check_int("seed", seed, "search", minimum=0)
    steps = check_int("steps", steps, "search", minimum=0)
    block_size = check_int("block_size", block_size, "search", minimum=1)
    if objective not in OBJECTIVES:
        raise ValueError(f"The search's 'objective' must be one of {', '.join(OBJECTIVES)}. Got {objective!r} instead.")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"The 'seconds' parameter of search must be a number above 0. Got {seconds!r} instead.")
    end = math.inf if seconds is None else time.monotonic() + seconds
    distinct = {p.checksum: p for p in candidates(n, degree, seed)}
    found = [Found(p, score(p, block_size)) for p in distinct.values()]
    found.sort(key=lambda one: _rank(one, objective))
    starts = [one.pattern for one in found if one.score.connected and one.pattern.symmetric][:_STARTS]
    for k, start in enumerate(starts):
        better = exchanged(start, seed=seed * _STARTS + k, steps=steps, end=end, block_size=block_size)
        if better.checksum not in distinct:
            named = rename(permute(better, path_order(better)), f"searched from {start.name}")
            distinct[better.checksum] = named
            found.append(Found(named, score(named, block_size)))
    return sorted(found, key=lambda one: _rank(one, objective))


def candidates(n: int, degree: int, seed: int) -> Iterator[Pattern]:
    """Members of all families on n vertices in which no vertex attends to more than `degree` others.

    Parameters
    ----------
    n, degree, seed : int
        As for `search`.

    Yields
    ------
    Pattern
    """
    named: list[tuple[str, dict[str, Any]]] = [("hypercube", {}), ("expander", {})]
    if degree >= n - 1:  # rows that attend to all vertices are within the budget
        named += [("softmax", {}), ("global", {}), ("longformer", {}), ("bigbird", {"seed": seed})]
    windows = range(3, degree + 2, 2)
    named += [("local", {"num_sliding_window_blocks": w}) for w in windows]
    named += [("random", {"num_random_blocks": degree, "seed": seed})]
    named += [
        ("local+random", {"num_sliding_window_blocks": w, "num_random_blocks": degree + 1 - w, "seed": seed})
        for w in windows
    ]
    regular = degree - n * degree % 2
    if min(n - 1, 2) <= regular < n:
        named += [("expander", {"degree": regular, "seed": seed + k}) for k in range(_EXPANDERS)]
    for name in SMALLEST:
        # twins increase degrees and a merged pair adds those of both: no order above the budget fits
        orders = [q for q in range(2, degree) if prime_of(q) and native_size(name, q) <= 2 * n]
        named += [(name, {"order": q}) for q in orders if n >= SMALLEST[name]]
    for name, parameters in named:
        pattern = build(name, n, **parameters)
        if pattern.degrees.max() <= degree:
            yield pattern


def exchanged(start: Pattern, *, seed: int, steps: int, end: float = math.inf, block_size: int = 1) -> Pattern:
    """Exchange edges of an undirected connected graph by simulated annealing, and return the best graph visited.

    Parameters
    ----------
    start : Pattern
    seed, steps, block_size
        As for `search`.
    end : float
        The time of ``time.monotonic`` after which no exchange is tried.

    Returns
    -------
    Pattern
        `start` if no better graph was visited.
    """
    indptr, indices = start.indptr, start.indices.copy()
    token_degrees = block_size * (start.degrees + 1) - 1
    shares, log2_end = block_size / token_degrees, -np.log2(token_degrees)
    now = best = _energy(indptr, indices, shares, log2_end)
    kept = indices.copy()
    raw = np.random.PCG64(seed).random_raw
    owner = start.edge_rows
    for step in range(steps):
        if time.monotonic() >= end:
            break
        chance, first, second = (int(x) for x in raw(3))
        e, f = first % indices.size, second % indices.size
        a, b, c, d = int(owner[e]), int(indices[e]), int(owner[f]), int(indices[f])
        if len({a, b, c, d}) < 4 or c in _row(indptr, indices, a) or d in _row(indptr, indices, b):
            continue
        before = indices.copy()
        for vertex, old, new in ((a, b, c), (b, a, d), (c, d, a), (d, c, b)):
            row = _row(indptr, indices, vertex)
            row[row == old] = new
        then = _energy(indptr, indices, shares, log2_end)
        heat = _HOT * (_COLD / _HOT) ** (step / max(steps - 1, 1))
        if then[1] <= now[1] or chance / 2**64 < math.exp((now[1] - then[1]) / heat):
            now = then
            if now < best:
                best, kept = now, indices.copy()
        else:
            indices = before
    return Pattern.from_edges(start.n, owner, kept, name=start.name, parameters=start.parameters)


def _row(indptr: sweep.Integers, indices: sweep.Integers, vertex: int) -> NDArray[np.int64]:
    return indices[indptr[vertex] : indptr[vertex + 1]]


def _energy(
    indptr: sweep.Integers, indices: sweep.Integers, shares: sweep.Floats, log2_end: sweep.Floats
) -> tuple[float, float]:
    """−log2 of the worst payload over the diameter, and its mean with that of all vertices: lower is better."""
    far = sweep.farthest(indptr, indices, shares, np.arange(shares.size), causal=False)
    if (far.distance < 0).any():
        return math.inf, math.inf
    each = far.log2_payload + log2_end - np.log2(far.distance)
    worst = float(each[far.distance == far.distance.max()].min())
    return -round(worst, 9), -(worst + float(each.mean())) / 2


def _rank(one: Found, objective: str) -> tuple[float, float]:
    logarithm = getattr(one.score, f"log10_{objective}")
    return (math.inf if logarithm is None else -round(logarithm, 9), one.score.mean_degree)
