"""Incidence graphs of finite geometries: projective planes and generalized quadrangles, at any size.

The vertices are the points and the lines of a geometry of order q; a point is adjacent to the q + 1 lines through it, a
line to the q + 1 points on it. No graph of that degree and diameter has many more vertices: vertices closer than the
diameter D have one shortest path, those at distance D have q + 1, so NIP = 1 / (D · (q + 1)^D).

===========================  ===  ==================
geometry                     D    vertices
===========================  ===  ==================
projective plane PG(2, q)    3    2 (q² + q + 1)
generalized quadrangle W(q)  4    2 (q + 1) (q² + 1)
===========================  ===  ==================

Other sizes are derived from a geometry of nearby size in one of two ways. Neither lengthens a shortest path: the
diameter is never greater than the geometry's, and the graph is always connected.

- *Doubled*: points and lines get twins with the same neighbours. Twins are two steps apart.
- *Merged*: pairs of points and pairs of lines become one vertex with the neighbours of both.

The choice of points and lines decides how evenly the degrees grow. Take a point and a line through it. Every other line
contains at most one point of that line (and every other point is on at most one line through that point), so these
points and lines come first. Removing vertices instead would break shortest paths, most of which are unique.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from nip.graphs.compose import permute
from nip.graphs.finite_fields import Field, field, prime_of
from nip.graphs.hamilton import path_order
from nip.graphs.pattern import Pattern, check_int, not_traced
from nip.graphs.resize import doubled, merged

Integers = NDArray[np.int64]
SMALLEST = {"projective_plane": 14, "generalized_quadrangle": 30}


@not_traced
def projective_plane(n: int, *, order: int | None = None) -> Pattern:
    """The point–line graph of the projective plane PG(2, q), doubled or merged to n vertices.

    Parameters
    ----------
    n : int
        Number of vertices, at least 14. The plane is unchanged if n = 2 (q² + q + 1).
    order : int, optional
        The order q, a prime power. Default: of the planes around n the one below is doubled, or the one above merged
        if n is at least two thirds of the way to it. Every order supports any n of at least q² + q + 1.

    Returns
    -------
    Pattern
        Undirected, of diameter 3, consecutive vertices adjacent. The parameter ``order`` is q.

    Raises
    ------
    ValueError
        If n is too small or the order is not a prime power.
    ImportError
        If the order is not prime and galois (the extra ``fast``) is not installed.

    Notes
    -----
    Points and lines of the plane itself are ordered by a perfect difference set D, computed from a recurrence over
    GF(q) (Singer): point i is on line j if and only if i − j is in D modulo q² + q + 1, and D contains 0 and 1, so that
    point 0, line 0, point 1, line 1, … is a cycle of the graph. Otherwise `path_order` finds a path.

    References
    ----------
    .. [1] J. Singer, "A theorem in finite projective geometry and some applications to number theory", 1938.

    Examples
    --------
    >>> projective_plane(366)
    <Pattern projective_plane, n=366, order=13; mean degree 14>
    """
    return _at_size("projective_plane", n, order)


@not_traced
def generalized_quadrangle(n: int, *, order: int | None = None) -> Pattern:
    """The point–line graph of the symplectic quadrangle W(q), doubled or merged to n vertices.

    Parameters
    ----------
    n : int
        Number of vertices, at least 30. The quadrangle is unchanged if n = 2 (q + 1) (q² + 1).
    order : int, optional
        The order q, a prime power; default: chosen as by `projective_plane`. Every order supports any n of at least
        (q + 1) (q² + 1).

    Returns
    -------
    Pattern
        Undirected, of diameter at most 4, consecutive vertices adjacent wherever `path_order` finds a path.

    Raises
    ------
    ValueError
        If n is too small or the order is not a prime power.
    ImportError
        If the order is not prime and galois (the extra ``fast``) is not installed.

    References
    ----------
    .. [1] S. E. Payne and J. A. Thas, "Finite Generalized Quadrangles", 1984.

    Examples
    --------
    >>> generalized_quadrangle(800)
    <Pattern generalized_quadrangle, n=800, order=7; mean degree 8>
    """
    return _at_size("generalized_quadrangle", n, order)


def native_size(name: str, order: int) -> int:
    """Number of vertices of the geometry of that order, neither doubled nor merged."""
    return 2 * (order**2 + order + 1) if name == "projective_plane" else 2 * (order + 1) * (order**2 + 1)


def plane_lines(q: int) -> Integers:
    """The points of every line of PG(2, q): ndarray of shape (q² + q + 1, q + 1); points j and j + 1 are on line j."""
    difference_set = _difference_set(q)
    v = q * q + q + 1
    return (np.arange(v)[:, None] + difference_set) % v


def quadrangle_lines(q: int) -> Integers:
    """The points of every line of W(q): ndarray of shape ((q + 1)(q² + 1), q + 1).

    Points are (a, b, c), (a, b), (a) and one more; lines are [k, l, m], [k, l], [k] and one more, all over GF(q).
    [k, l, m] contains every (a, ak − l, al − m) and (k, l); [k, l] every (k, b, kb + l) and (k); [k] every (k, b) and
    the last point; the last line every (a) and the last point.
    """
    f = field(q)
    a, k, l, m = np.indices((q, q, q, q)).reshape(4, q, -1)  # noqa: E741
    second = f.subtract[f.multiply[a, k], l]
    third = f.subtract[f.multiply[a, l], m]
    affine = np.concatenate([(a * q + second) * q + third, (q**3 + k * q + l)[:1]])
    singles, last = np.arange(q), q**3 + q**2 + q
    b, k, l = np.indices((q, q, q)).reshape(3, q, -1)  # noqa: E741
    on_pairs = np.concatenate([(k * q + b) * q + f.add[f.multiply[k, b], l], (q**3 + q**2 + k)[:1]]).T
    on_singles = np.column_stack([q**3 + singles[:, None] * q + singles, np.full(q, last)])
    return np.concatenate([affine.T, on_pairs, on_singles, [[*(q**3 + q**2 + singles), last]]])


def _difference_set(q: int) -> Integers:
    """A perfect difference set modulo q² + q + 1 that contains 0 and 1, ascending."""
    f = field(q)
    v = q * q + q + 1
    for coefficients in product(range(q), range(q), range(1, q)):
        zeros = _zeros(f, coefficients, v)
        if zeros is not None:
            first = next(d for d in zeros if (d + 1) % v in zeros)
            return np.sort((np.array(zeros) - first) % v)
    raise AssertionError("every finite field has primitive polynomials of degree 3")


def _zeros(f: Field, coefficients: tuple[int, int, int], v: int) -> list[int] | None:
    """The zeros of x[i + 3] = a x[i + 2] + b x[i + 1] + c x[i] from 0, 0, 1; None if its period is not v.

    Three consecutive terms are a point of the plane, up to a factor; those with x[i] = 0 are a line. The sequence
    visits all v points if the first, 0, 0, 1, does not recur earlier.
    """
    by_a, by_b, by_c = (f.multiply[c].tolist() for c in coefficients)
    add = f.add.tolist()
    x, y, z = 0, 0, 1
    zeros = []
    for i in range(v):
        if x == 0:
            if y == 0 and i > 0:
                return None
            zeros.append(i)
        x, y, z = y, z, add[add[by_a[z]][by_b[y]]][by_c[x]]
    return zeros if x == y == 0 else None


def _at_size(name: str, n: int, order: int | None) -> Pattern:
    n = check_int("n", n, name, minimum=SMALLEST[name])
    q = _choose_order(name, n) if order is None else order
    q = check_int("order", q, name, minimum=2)
    native = native_size(name, q)
    if 2 * n < native:
        raise ValueError(f"The {name} of order {q} has {native} vertices; n must be at least half. Got n={n} instead.")
    if prime_of(q) is None:
        raise ValueError(f"The 'order' parameter of {name} must be a prime power. Got {order} instead.")
    lines = plane_lines(q) if name == "projective_plane" else quadrangle_lines(q)
    flags = lines.ravel(), np.repeat(np.arange(len(lines)), q + 1)
    point, line = doubled(*flags, n - native) if n >= native else merged(*flags, native - n)
    graph = Pattern.from_edges(n, point, point.max() + 1 + line, symmetric=True)
    cyclic = name == "projective_plane" and n == native
    ordered = permute(graph, np.arange(n).reshape(2, -1).T.ravel() if cyclic else path_order(graph))
    return Pattern(n, ordered.indptr, ordered.indices, name=name, parameters={"order": q})


def _choose_order(name: str, n: int) -> int:
    below = above = 2
    while native_size(name, above) < n:
        below, above = above, next(q for q in range(above + 1, 2 * above + 1) if prime_of(q))
    less, more = native_size(name, below), native_size(name, above)
    return above if 3 * (n - less) >= 2 * (more - less) else below  # approximately where the two scores cross
