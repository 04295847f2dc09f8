"""The hot loops of scoring: breadth-first search along shortest paths from every vertex.

The search runs backwards: from a *target* along the vertices it attends to, so that it only needs rows of the pattern.
It computes for every vertex the payload from there to the target, with the target's own factor taken as 1.

Payloads shrink geometrically with distance (1e-1200 is common), and vertices of one level can differ by more than the
range of a double. The compiled loops therefore store a mantissa and an exponent of 2^512; the vectorized ones, for
machines without numba, store logarithms. Both are exact up to rounding, a relative error of about 1e-12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import numba
except ImportError:  # numba is in nip[fast]; without it the vectorized loops are used, about ten times slower
    COMPILED = False
else:
    COMPILED = True

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Maximum number of edge visits of a vectorized batch, which bounds its memory to a few hundred megabytes.
_EDGES_PER_BATCH = 2_000_000
# Payloads closer than this count as equal, so that rounding does not decide among the worst pairs.
_TIE = 1e-9


@dataclass(frozen=True)
class Farthest:
    """For every target of a sweep, its farthest source of least payload; ndarrays of shape (n_targets,).

    Parameters
    ----------
    distance : ndarray of int64
        The greatest distance to the target; −1 if some required source cannot reach it, 0 if there is no source.
    log2_payload : ndarray of float64
        log2 of the least payload among the sources at that distance, without the target's own factor.
    source : ndarray of int64
        The first such source; if `distance` is −1 the first source that cannot reach the target.
    """

    distance: Integers
    log2_payload: Floats
    source: Integers


def farthest(
    indptr: Integers, indices: Integers, shares: Floats, targets: Integers, *, causal: bool, compiled: bool = COMPILED
) -> Farthest:
    """Find for every target the farthest source of least payload.

    Parameters
    ----------
    indptr, indices : ndarray
        The pattern's rows.
    shares : ndarray of shape (n,)
        The factor of every vertex as an interior vertex: its 1/degree, summed over its tokens, discounted or not.
    targets : ndarray of int64
        The vertices to search from.
    causal : bool
        Whether only earlier vertices are sources.
    compiled : bool
        Use the loops compiled by numba; default: if it is installed.

    Returns
    -------
    Farthest

    Notes
    -----
    Takes O(targets · (n + edges)) steps, fewer if the last level need not be expanded, and O(n) memory.
    """
    engine = _farthest_compiled if compiled else _farthest_vectorized
    return Farthest(*engine(indptr, indices, shares, targets, causal))


def load(
    indptr: Integers, indices: Integers, shares: Floats, targets: Integers, diameter: int, *, compiled: bool = COMPILED
) -> Floats:
    """The flow through every vertex: one unit for every pair at distance `diameter`, split by payload.

    Parameters
    ----------
    indptr, indices, shares : ndarray
        As for `farthest`.
    targets : ndarray of int64
        Vertices whose greatest distance is `diameter`.
    diameter : int

    Returns
    -------
    ndarray of shape (n,)
        Flow as an interior vertex, summed over the pairs.
    """
    engine = _load_compiled if compiled else _load_vectorized
    result: Floats = engine(indptr, indices, shares, targets, diameter)
    return result


def path(indptr: Integers, indices: Integers, source: int, target: int) -> list[int]:
    """One shortest path along which information flows from `source` to `target`.

    Parameters
    ----------
    indptr, indices : ndarray
        The pattern's rows.
    source, target : int

    Returns
    -------
    list of int
        The vertices of the path, both ends included.
    """
    toward = {target: target}
    level = [target]
    while source not in toward:
        following = []
        for vertex in level:
            for attended in indices[indptr[vertex] : indptr[vertex + 1]].tolist():
                if attended not in toward:
                    toward[attended] = vertex
                    following.append(attended)
        level = following
    steps = [source]
    while steps[-1] != target:
        steps.append(toward[steps[-1]])
    return steps


# --- vectorized over targets ------------------------------------------------------------------------------------------


def levels(indptr: Integers, indices: Integers, shares: Floats, targets: Integers) -> list[tuple[Any, ...]]:
    """Breadth-first search from a batch of targets at once.

    Parameters
    ----------
    indptr, indices, shares, targets : ndarray
        As for `farthest`.

    Returns
    -------
    list of tuple
        Per level: its states ``row of the batch · n + vertex``, ascending; their log2 payloads; and its incoming edges
        as three arrays (from, to, log2 payload passed), from and to being positions within their levels.
    """
    n = shares.size
    states = np.arange(targets.size) * n + targets
    logs = np.zeros(targets.size)
    seen = np.zeros(targets.size * n, dtype=bool)
    seen[states] = True
    degrees = np.diff(indptr)
    left = np.full(targets.size, n - 1)
    with np.errstate(divide="ignore"):
        log_shares = np.log2(shares)
    walked: list[tuple[Any, ...]] = [(states, logs, None, None, None)]
    while states.size:
        active = left[states // n] > 0  # once all vertices are found, the last level need not be expanded
        position = np.flatnonzero(active)
        vertices = states[active] % n
        counts = degrees[vertices]
        origin = np.repeat(position, counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        reached = states[origin] // n * n + indices[np.repeat(indptr[vertices], counts) + offset]
        new = ~seen[reached]
        origin, reached = origin[new], reached[new]
        passed = logs[origin] + (log_shares[states[origin] % n] if len(walked) > 1 else 0.0)
        order = np.argsort(reached, kind="stable")
        origin, reached, passed = origin[order], reached[order], passed[order]
        starts = np.flatnonzero(np.diff(reached, prepend=-1))
        states = reached[starts]
        logs = np.logaddexp2.reduceat(passed, starts) if starts.size else np.empty(0)
        seen[states] = True
        left -= np.bincount(states // n, minlength=targets.size)
        to = np.repeat(np.arange(starts.size), np.diff(starts, append=reached.size))
        walked.append((states, logs, origin, to, passed))
    return walked[:-1]


def batches(indices: Integers, n: int, targets: Integers) -> list[Integers]:
    """Split the targets into batches small enough for `levels`.

    Parameters
    ----------
    indices : ndarray
        Of the pattern's rows.
    n : int
        Number of vertices.
    targets : ndarray of int64

    Returns
    -------
    list of ndarray
    """
    size = max(1, _EDGES_PER_BATCH // (indices.size + n))
    return [targets[i : i + size] for i in range(0, targets.size, size)]


def _farthest_vectorized(
    indptr: Integers, indices: Integers, shares: Floats, targets: Integers, causal: bool
) -> tuple[Integers, Floats, Integers]:
    n = shares.size
    distance = np.zeros(targets.size, dtype=np.int64)
    least = np.zeros(targets.size)
    source = targets.copy()
    done = 0
    for batch in batches(indices, n, targets):
        seen = np.zeros((batch.size, n), dtype=bool)
        for k, (states, logs, *_) in enumerate(levels(indptr, indices, shares, batch)):
            rows, vertices = np.divmod(states, n)
            seen[rows, vertices] = True
            starts = np.flatnonzero(np.diff(rows, prepend=-1))
            smallest = np.minimum.reduceat(logs, starts)
            tied = logs <= np.repeat(smallest, np.diff(starts, append=rows.size)) + _TIE
            first = np.minimum.reduceat(np.where(tied, vertices, n), starts)
            if k:
                distance[done + rows[starts]] = k
                least[done + rows[starts]] = smallest
                source[done + rows[starts]] = first
        missing = ~seen & (np.arange(n) < batch[:, None]) if causal else ~seen
        cut = np.flatnonzero(missing.any(axis=1))
        distance[done + cut] = -1
        source[done + cut] = missing[cut].argmax(axis=1)
        done += batch.size
    return distance, least, source


def _load_vectorized(indptr: Integers, indices: Integers, shares: Floats, targets: Integers, diameter: int) -> Floats:
    n = shares.size
    total = np.zeros(n)
    for batch in batches(indices, n, targets):
        walked = levels(indptr, indices, shares, batch)
        flow = np.ones(walked[diameter][0].size)
        for k in range(diameter, 1, -1):
            _, logs, origin, to, passed = walked[k]
            nearer = walked[k - 1][0]
            flow = np.bincount(origin, flow[to] * np.exp2(passed - logs[to]), minlength=nearer.size)
            total += np.bincount(nearer % n, flow, minlength=n)
    return total


# --- compiled, one target at a time -----------------------------------------------------------------------------------

_UP = 2.0**512
_DOWN = 2.0**-512
_HIGH = 2.0**256
_LOW = 2.0**-256


def _walk(graph: Any, shares: Any, target: int, distance: Any, payload: Any, queue: Any) -> int:
    """Breadth-first search: fill distance, payload (mantissa, exponent of 2^512) and queue; return the queue length."""
    indptr, indices = graph
    mantissa, scale = payload
    n = shares.size
    distance[:] = -1
    distance[target] = 0
    mantissa[target] = 1.0
    scale[target] = 0
    queue[0] = target
    found = 1
    head = 0
    while head < found:
        i = queue[head]
        head += 1
        if mantissa[i] < _LOW:
            mantissa[i] *= _UP
            scale[i] -= 1
        elif mantissa[i] >= _HIGH:
            mantissa[i] *= _DOWN
            scale[i] += 1
        if found == n and distance[i] == distance[queue[n - 1]]:
            continue
        passed = mantissa[i] if i == target else mantissa[i] * shares[i]
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            if distance[j] < 0:
                distance[j] = distance[i] + 1
                mantissa[j] = passed
                scale[j] = scale[i]
                queue[found] = j
                found += 1
            elif distance[j] == distance[i] + 1:
                if scale[j] == scale[i]:
                    mantissa[j] += passed
                elif scale[j] == scale[i] + 1:
                    mantissa[j] += passed * _DOWN
                elif scale[j] < scale[i]:
                    mantissa[j] = passed + (mantissa[j] * _DOWN if scale[j] == scale[i] - 1 else 0.0)
                    scale[j] = scale[i]
    return found


def _farthest_loop(indptr: Any, indices: Any, shares: Any, targets: Any, causal: bool) -> tuple[Any, Any, Any]:
    n = shares.size
    distance = np.empty(n, np.int64)
    mantissa = np.empty(n, np.float64)
    scale = np.empty(n, np.int64)
    queue = np.empty(n, np.int64)
    greatest = np.zeros(targets.size, np.int64)
    least = np.zeros(targets.size, np.float64)
    source = targets.copy()
    for t in range(targets.size):
        target = targets[t]
        found = _walk((indptr, indices), shares, target, distance, (mantissa, scale), queue)
        if found < (target + 1 if causal else n):
            greatest[t] = -1
            for v in range(n):
                if distance[v] < 0:
                    source[t] = v
                    break
            continue
        if found == 1:
            continue
        greatest[t] = distance[queue[found - 1]]
        smallest = np.inf
        for e in range(found - 1, 0, -1):
            v = queue[e]
            if distance[v] < greatest[t]:
                break
            smallest = min(smallest, math.log2(mantissa[v]) + 512.0 * scale[v])
        least[t] = smallest
        first = n
        for e in range(found - 1, 0, -1):
            v = queue[e]
            if distance[v] < greatest[t]:
                break
            if v < first and math.log2(mantissa[v]) + 512.0 * scale[v] <= smallest + _TIE:
                first = v
        source[t] = first
    return greatest, least, source


def _load_loop(indptr: Any, indices: Any, shares: Any, targets: Any, diameter: int) -> Any:
    n = shares.size
    distance = np.empty(n, np.int64)
    mantissa = np.empty(n, np.float64)
    scale = np.empty(n, np.int64)
    queue = np.empty(n, np.int64)
    flow = np.empty(n, np.float64)
    total = np.zeros(n, np.float64)
    for t in range(targets.size):
        target = targets[t]
        found = _walk((indptr, indices), shares, target, distance, (mantissa, scale), queue)
        for e in range(found - 1, 0, -1):
            i = queue[e]
            if distance[i] == diameter:
                flow[i] = 1.0
                continue
            flow[i] = 0.0
            for edge in range(indptr[i], indptr[i + 1]):
                j = indices[edge]
                if distance[j] == distance[i] + 1 and flow[j] > 0.0:
                    ratio = mantissa[i] * shares[i] / mantissa[j]
                    if scale[i] != scale[j]:
                        ratio *= 2.0 ** (512.0 * (scale[i] - scale[j]))
                    flow[i] += flow[j] * ratio
            total[i] += flow[i]
    return total


_farthest_compiled: Any = _farthest_loop
_load_compiled: Any = _load_loop
if COMPILED:
    _walk = numba.njit(cache=True)(_walk)
    _farthest_compiled = numba.njit(cache=True)(_farthest_loop)
    _load_compiled = numba.njit(cache=True)(_load_loop)
