"""Means and correlations of few points, with their uncertainty.

The correlation of a handful of patterns is imprecise, so each one has its n, a bootstrap interval over the patterns and
a permutation test. Points with x = −inf (a NIP of zero) do not fit on a line: Pearson's r leaves them out and counts
them, Spearman's ranks them last.
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
EXACT_UP_TO = 7  # points: all 5,040 permutations are used


@dataclass(frozen=True)
class Summary:
    """The accuracies of several seeds.

    Parameters
    ----------
    n : int
    mean : float
    sd : float or None
        Standard deviation with n − 1 in the denominator; None for a single value.
    interval : (float, float) or None
        Student's 95 % interval of the mean; None for a single value.
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient with its uncertainty.

    Parameters
    ----------
    kind : {"pearson", "spearman"}
    r : float or None
        None where it is not defined: for fewer than three points, or constant values.
    n : int
        Number of points.
    interval : (float, float) or None
        95 % percentile interval of 10,000 bootstrap samples of the points, without constant samples; None if r is None
        or there are fewer than four points.
    p : float or None
        Proportion of permutations with an absolute r of at least this one's: of all permutations for up to 7 points,
        else of 10,000 random ones and the identity.
    left_out : int
        Points that Pearson's r leaves out because x is not finite.
    without_density : float or None
        The partial correlation given the densities; None where it is not defined or not requested.
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
    from scipy import stats  # imported here: slow to load

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
        May contain −inf.
    y : sequence of n floats
    kind : {"pearson", "spearman"}, default="pearson"
    given : sequence of n floats, optional
        The variable that is controlled for: the density.

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
    """The partial correlation of x and y given z, of ranks for Spearman's; None where it is not defined.

    Parameters
    ----------
    x, y, z : ndarray of shape (n,)
    kind : {"pearson", "spearman"}, default="pearson"
    """
    pairs = [_coefficient(u, v, kind) for u, v in ((x, y), (x, z), (y, z))]
    if any(r is None for r in pairs) or x.size < 4:
        return None
    xy, xz, yz = (float(r) for r in pairs if r is not None)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 1e-12 else None


def leave_one_out(x: Sequence[float], y: Sequence[float], kind: str = "pearson") -> list[float | None]:
    """The n coefficients that leave out one point each.

    Parameters
    ----------
    x, y : sequence of n floats
    kind : {"pearson", "spearman"}, default="pearson"
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return [_coefficient(np.delete(a, i), np.delete(b, i), kind) for i in range(a.size)]


def _coefficient(x: Floats, y: Floats, kind: str) -> float | None:
    if x.size < 3:
        return None
    r = float(_rows(x[None], y[None], kind)[0])
    return r if math.isfinite(r) else None


def _rows(x: Floats, y: Floats, kind: str) -> Floats:
    """The coefficients of the rows of x and y; NaN where a row is constant."""
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
