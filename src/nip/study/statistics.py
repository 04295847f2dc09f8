"""Means and correlations of few points, with what is needed to not believe them too easily.

Of a handful of patterns a correlation is a rough thing: every one here comes with its n, a bootstrap interval over the
patterns and a permutation test. Points whose x is −inf (a NIP of zero) have no place on a line: Pearson's r leaves them
out and says how many there were, Spearman's ranks them last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
EXACT_UP_TO = 7  # points, whose 5,040 permutations are all tried


@dataclass(frozen=True)
class Summary:
    """Several seeds of one setting.

    Parameters
    ----------
    n : int
    mean : float
    sd : float or None
        Standard deviation, of n − 1; None for a single value.
    interval : (float, float) or None
        Student's 95 % interval of the mean; None for a single value.
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Correlation:
    """How two things go together.

    Parameters
    ----------
    kind : {"pearson", "spearman"}
    r : float or None
        None where it is not defined: fewer than three points, or all alike.
    n : int
        Points that it is of.
    interval : (float, float) or None
        95 % percentile interval of 10,000 bootstrap samples of the points, those in which all are alike left out; None
        where r is, and below four points.
    p : float or None
        Share of all permutations (of up to 7 points; else of 10,000 random ones and the one there is) that give at
        least as large an absolute r.
    left_out : int
        Points whose x is not finite, which Pearson's r cannot take.
    without_density : float or None
        The partial correlation given the patterns' densities; None where it is not defined or was not asked for.
    """

    kind: str
    r: float | None
    n: int
    interval: tuple[float, float] | None
    p: float | None
    left_out: int = 0
    without_density: float | None = None


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and Student's 95 % interval.

    Examples
    --------
    >>> found = summary([0.5, 0.6, 0.7])
    >>> round(found.mean, 3), round(found.sd, 3), [round(end, 3) for end in found.interval]
    (0.6, 0.1, [0.352, 0.848])
    """
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Summary(1, mean, None, None)
    from scipy import stats  # here because it is slow to load

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, (mean - half, mean + half))


def correlation(
    x: Sequence[float], y: Sequence[float], kind: str = "pearson", *, given: Sequence[float] | None = None
) -> Correlation:
    """The correlation of y with x.

    Parameters
    ----------
    x : sequence of n floats
        May hold −inf.
    y : sequence of n floats
    kind : {"pearson", "spearman"}, default="pearson"
    given : sequence of n floats, optional
        What is partialled out: the density.

    Examples
    --------
    >>> found = correlation([1, 2, 3, 4, 5], [1.1, 1.9, 3.2, 3.9, 5.1])
    >>> round(found.r, 4), found.n, round(found.p, 4)
    (0.9964, 5, 0.0167)
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    z = None if given is None else np.asarray(given, dtype=np.float64)
    kept = np.isfinite(a) if kind == "pearson" else np.ones(a.size, dtype=bool)
    a, b, z = a[kept], b[kept], None if z is None else z[kept]
    left_out = int((~kept).sum())
    n = int(a.size)
    r = _coefficient(a, b, kind)
    if r is None:
        return Correlation(kind, None, n, None, None, left_out)
    return Correlation(
        kind,
        r,
        n,
        _bootstrap(a, b, kind),
        _permutation(a, b, kind),
        left_out,
        None if z is None else partial(a, b, z, kind),
    )


def partial(x: Floats, y: Floats, z: Floats, kind: str = "pearson") -> float | None:
    """The correlation of x and y with z held fixed: of ranks for Spearman's; None where it is not defined."""
    pairs = [_coefficient(u, v, kind) for u, v in ((x, y), (x, z), (y, z))]
    if any(r is None for r in pairs) or x.size < 4:
        return None
    xy, xz, yz = (float(r) for r in pairs if r is not None)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 1e-12 else None


def leave_one_out(x: Sequence[float], y: Sequence[float], kind: str = "pearson") -> list[float | None]:
    """The coefficient without each of the points in turn."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return [_coefficient(np.delete(a, i), np.delete(b, i), kind) for i in range(a.size)]


def _coefficient(x: Floats, y: Floats, kind: str) -> float | None:
    if x.size < 3:
        return None
    r = float(_rows(x[None], y[None], kind)[0])
    return r if math.isfinite(r) else None


def _rows(x: Floats, y: Floats, kind: str) -> Floats:
    """The coefficient of every row of x with that of y; NaN where a row's values are all alike."""
    if kind == "spearman":
        x, y = _ranks(x), _ranks(y)
    alike = (x == x[:, :1]).all(axis=1) | (y == y[:, :1]).all(axis=1)
    u, v = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (u * v).sum(axis=1) / np.sqrt((u * u).sum(axis=1) * (v * v).sum(axis=1))
    clipped: Floats = np.where(alike, np.nan, np.clip(r, -1.0, 1.0))
    return clipped


def _ranks(values: Floats) -> Floats:
    from scipy import stats

    ranks: Floats = stats.rankdata(values, axis=1)
    return ranks


def _bootstrap(x: Floats, y: Floats, kind: str) -> tuple[float, float] | None:
    if x.size < 4:
        return None
    drawn = np.random.default_rng(0).integers(x.size, size=(RESAMPLES, x.size))
    r = _rows(x[drawn], y[drawn], kind)
    low, high = np.quantile(r[np.isfinite(r)], (0.025, 0.975))
    return float(low), float(high)


def _permutation(x: Floats, y: Floats, kind: str) -> float:
    if x.size <= EXACT_UP_TO:
        order = np.array(list(itertools.permutations(range(x.size))))
    else:
        generator = np.random.default_rng(0)
        order = generator.permuted(np.tile(np.arange(x.size), (RESAMPLES, 1)), axis=1)
        order = np.vstack([np.arange(x.size), order])
    r = np.abs(_rows(np.tile(x, (len(order), 1)), y[order], kind))
    observed = abs(_rows(x[None], y[None], kind)[0])
    return float((r >= observed - 1e-12).mean())
