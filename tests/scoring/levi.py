"""Levi graphs (point–line incidence graphs) of small prime order, built independently from coordinates."""

from __future__ import annotations

from itertools import product
from pathlib import Path


def points_of_projective_space(dimension: int, q: int) -> list[tuple[int, ...]]:
    """One vector for each line through the origin of GF(q)^(dimension + 1), whose first nonzero coordinate is 1."""
    vectors = product(range(q), repeat=dimension + 1)
    return [v for v in vectors if any(v) and next(x for x in v if x) == 1]


def projective_plane(q: int) -> list[tuple[int, int]]:
    """PG(2, q): lines are points of the dual plane; a point is on a line if their product is 0."""
    points = points_of_projective_space(2, q)
    return [
        (i, len(points) + j)
        for i, point in enumerate(points)
        for j, line in enumerate(points)
        if sum(a * b for a, b in zip(point, line, strict=True)) % q == 0
    ]


def generalized_quadrangle(q: int) -> list[tuple[int, int]]:
    """W(3, q): the points of PG(3, q) and the lines on which x0 y1 − x1 y0 + x2 y3 − x3 y2 vanishes."""
    points = points_of_projective_space(3, q)
    number = {point: i for i, point in enumerate(points)}

    def normal(v: tuple[int, ...]) -> tuple[int, ...]:
        lead = pow(next(x for x in v if x), -1, q)
        return tuple(x * lead % q for x in v)

    lines = set()
    for i, x in enumerate(points):
        for y in points[i + 1 :]:
            if (x[0] * y[1] - x[1] * y[0] + x[2] * y[3] - x[3] * y[2]) % q == 0:
                on_it = {number[x]}
                on_it |= {number[normal(tuple((s * a + b) % q for a, b in zip(x, y, strict=True)))] for s in range(q)}
                lines.add(frozenset(on_it))
    ordered = sorted(tuple(sorted(line)) for line in lines)
    return [(point, len(points) + j) for j, line in enumerate(ordered) for point in line]


def write_edge_list(edges: list[tuple[int, int]], path: Path) -> Path:
    path.write_text("".join(f"{i} {j}\n" for i, j in edges))
    return path
