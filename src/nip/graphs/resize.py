"""A bipartite graph at another size: twins of its vertices, or pairs of them made one.

Graphs are given by their *flags*, the incident pairs (point, line), as two arrays; every point and line has one. Both
ways leave no two vertices farther apart than they were, but for twins, which are two steps apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def doubled(points: Integers, lines: Integers, more: int) -> tuple[Integers, Integers]:
    """Give twins, with the same neighbours, to `more` vertices: to as many points as lines, or one point more.

    Parameters
    ----------
    points, lines : ndarray of shape (n_flags,)
        The point and the line of every flag; point 0 is on line 0.
    more : int
        Number of twins. The points of line 0 and the lines through point 0 get theirs first, then their neighbours,
        then the others; beyond one twin each a second round begins.

    Returns
    -------
    (ndarray, ndarray)
        The flags of the new graph; twins are numbered after the others.
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
    """Make one vertex of each of `fewer` pairs: of as many pairs of points as of lines, or one pair of lines more.

    Parameters
    ----------
    points, lines : ndarray of shape (n_flags,)
        The point and the line of every flag; point 0 is on line 0.
    fewer : int
        Number of pairs. First come the points of line 0, which have no other line in common, and the lines through
        point 0; then always a vertex of least degree, with the one that makes the fewest neighbours in all.

    Returns
    -------
    (ndarray, ndarray)
        The flags of the new graph, repeated where both of a pair were on the same.
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
    """The vertices of one side, those nearest to the vertex `first` of the other side before the rest, `last` late."""
    found = dict.fromkeys([*(i for i in on[first] if i != last), last])
    for near in through[last]:
        found.update(dict.fromkeys(on[near]))
    return [*found, *(i for i in range(len(through)) if i not in found)]


@dataclass
class _Side:
    """The points of a geometry, or its lines: for each the vertices of the other side that it is joined to."""

    joined: list[set[int]]
    merged_into: Integers

    def merge(self, i: int, j: int, other: _Side) -> None:
        """Make j part of i."""
        for x in self.joined[j]:
            other.joined[x].discard(j)
            other.joined[x].add(i)
        self.joined[i] |= self.joined[j]
        self.joined[j] = set()
        self.merged_into[self.merged_into == j] = i

    def merge_most_alike(self, other: _Side) -> None:
        """Merge a vertex of least degree with the one with which it has the fewest neighbours in all."""
        degrees = np.array([len(x) or np.inf for x in self.joined], dtype=np.float64)
        i = int(degrees.argmin())
        neighbours = [y for x in self.joined[i] for y in other.joined[x]]
        union = degrees - np.bincount(neighbours, minlength=degrees.size)
        union[i] = np.inf
        j = int(union.argmin())
        self.merge(min(i, j), max(i, j), other)
