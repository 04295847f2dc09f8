"""Resize a bipartite graph by adding twins of its vertices or by merging pairs of them.

Graphs are given by their *flags*, the incident pairs (point, line), as two arrays; every point and line has one.
Neither operation increases a distance; twins are two steps apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def doubled(points: Integers, lines: Integers, more: int) -> tuple[Integers, Integers]:
    """Add `more` twins with the same neighbours: equal numbers of points and lines, or one point more.

    Parameters
    ----------
    points, lines : ndarray of shape (n_flags,)
        The point and the line of every flag; point 0 is on line 0.
    more : int
        Number of twins. The points of line 0 and the lines through point 0 get theirs first, then their neighbours,
        then the others; after one twin each, a second round starts.

    Returns
    -------
    points, lines : ndarray of shape (n_flags,)
        The flags of the new graph; twins are numbered after the original vertices.
    """
    through, on = _joined(points, lines), _joined(lines, points)
    copies = []
    for own, twins, order in (
        (points, more - more // 2, _around(0, on, through, 0)),
        (lines, more // 2, _around(0, through, on, 0)),
    ):
        count = len(order)
        chosen = np.array([order[t % count] for t in range(twins)], dtype=np.int64)
        number = [np.arange(count)]
        for start in range(0, twins, count):
            twin = np.full(count, -1)
            several = chosen[start : start + count]
            twin[several] = count + start + np.arange(several.size)
            number.append(twin)
        copies.append([ids[own] for ids in number])
    pairs = [(p[kept], l[kept]) for p in copies[0] for l in copies[1] for kept in [(p >= 0) & (l >= 0)]]  # noqa: E741
    return np.concatenate([p for p, _ in pairs]), np.concatenate([l for _, l in pairs])  # noqa: E741


def merged(points: Integers, lines: Integers, fewer: int) -> tuple[Integers, Integers]:
    """Merge `fewer` pairs of vertices: equal numbers of pairs of points and of lines, or one pair of lines more.

    Parameters
    ----------
    points, lines : ndarray of shape (n_flags,)
        The point and the line of every flag; point 0 is on line 0.
    fewer : int
        Number of pairs. First the points of line 0, which have no other line in common, and the lines through point 0;
        then repeatedly a vertex of minimum degree with the vertex that minimizes the size of their joint neighbourhood.

    Returns
    -------
    points, lines : ndarray of shape (n_flags,)
        The flags of the new graph; a flag is repeated if both vertices of a pair had it.
    """
    joined = _joined(points, lines), _joined(lines, points)
    sides = tuple(_Side([set(x) for x in rows], np.arange(len(rows))) for rows in joined)
    left = [fewer // 2, fewer - fewer // 2]
    for k in (0, 1):
        # the points of line 0, the lines through point 0
        pairs = list(zip(joined[1 - k][0][::2], joined[1 - k][0][1::2], strict=False))[: left[k]]
        for i, j in pairs:
            sides[k].merge(i, j, sides[1 - k])
        left[k] -= len(pairs)
    while any(left):
        k = 0 if left[0] > left[1] else 1
        sides[k].merge_most_alike(sides[1 - k])
        left[k] -= 1
    labels = [np.unique(side.merged_into, return_inverse=True)[1] for side in sides]
    return labels[0][points], labels[1][lines]


def _joined(own: Integers, others: Integers) -> list[list[int]]:
    result: list[list[int]] = [[] for _ in range(own.max() + 1)]
    for i, j in zip(own.tolist(), others.tolist(), strict=True):
        result[i].append(j)
    return [sorted(x) for x in result]


def _around(first: int, on: list[list[int]], through: list[list[int]], last: int) -> list[int]:
    """One side's vertices: the neighbours of `first` with `last` at the end, those two steps from `last`, the rest."""
    found = dict.fromkeys([*(i for i in on[first] if i != last), last])
    for near in through[last]:
        found.update(dict.fromkeys(on[near]))
    return [*found, *(i for i in range(len(through)) if i not in found)]


@dataclass
class _Side:
    """The points of a geometry, or its lines, each with its neighbours on the other side."""

    joined: list[set[int]]
    merged_into: Integers

    def merge(self, i: int, j: int, other: _Side) -> None:
        """Merge j into i."""
        for x in self.joined[j]:
            other.joined[x].discard(j)
            other.joined[x].add(i)
        self.joined[i] |= self.joined[j]
        self.joined[j] = set()
        self.merged_into[self.merged_into == j] = i

    def merge_most_alike(self, other: _Side) -> None:
        """Merge a vertex of minimum degree with the one that minimizes the size of their joint neighbourhood."""
        degrees = np.array([len(x) or np.inf for x in self.joined], dtype=np.float64)
        i = int(degrees.argmin())
        neighbours = [y for x in self.joined[i] for y in other.joined[x]]
        union = degrees - np.bincount(neighbours, minlength=degrees.size)
        union[i] = np.inf
        j = int(union.argmin())
        self.merge(min(i, j), max(i, j), other)
