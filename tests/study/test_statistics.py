"""Every figure against scipy, or by hand where scipy has none."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nip.study.statistics import correlation, leave_one_out, partial, summary

values = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
points = st.lists(st.tuples(values, values), min_size=4, max_size=9)
SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}


def drawn(n, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    return x, 0.6 * x + generator.normal(size=n)


@given(st.lists(values, min_size=2, max_size=8))
def test_summary(accuracies):
    found = summary(accuracies)
    assert found.mean == pytest.approx(np.mean(accuracies), abs=1e-9)
    assert found.sd == pytest.approx(np.std(accuracies, ddof=1), abs=1e-9)
    if found.sd > 1e-6:
        ends = stats.t.interval(0.95, len(accuracies) - 1, np.mean(accuracies), stats.sem(accuracies))
        assert found.interval == pytest.approx(ends)


def test_one_seed_has_no_interval():
    assert summary([0.5]).sd is None and summary([0.5]).interval is None


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
@given(pairs=points)
def test_coefficients(kind, pairs):
    x, y = np.array(pairs).T
    found = correlation(x, y, kind)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found.r is None and found.interval is None
    else:
        assert found.r == pytest.approx(SCIPY[kind](x, y).statistic, abs=1e-6)
        assert found.n == len(x)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_bootstrap_interval(kind):
    x, y = drawn(30)
    reference = stats.bootstrap(
        (x, y), lambda a, b: SCIPY[kind](a, b).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=4000, rng=1,
    ).confidence_interval  # fmt: skip
    assert correlation(x, y, kind).interval == pytest.approx((reference.low, reference.high), abs=0.03)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
@pytest.mark.parametrize("n", [5, 12])
def test_permutation_test(kind, n):
    x, y = drawn(n, seed=n)
    reference = stats.permutation_test(
        (y,), lambda b: SCIPY[kind](x, b).statistic, permutation_type="pairings", n_resamples=10_000, rng=1,
        alternative="two-sided",
    )  # fmt: skip
    if n == 5:  # all permutations: scipy doubles the smaller tail, this counts both
        r = [abs(SCIPY[kind](x, y[list(order)]).statistic) for order in itertools.permutations(range(n))]
        assert correlation(x, y, kind).p == pytest.approx(np.mean(np.array(r) >= abs(SCIPY[kind](x, y)[0]) - 1e-12))
    else:
        assert correlation(x, y, kind).p == pytest.approx(reference.pvalue, abs=0.02)


def test_a_nip_of_zero_is_left_out_of_pearson_and_last_in_spearman():
    x, y = [-math.inf, -1.0, 0.0, 0.5, 0.7, -math.inf], [0.3, 0.1, 0.4, 0.5, 0.45, 0.05]
    found = correlation(x, y)
    assert (found.n, found.left_out) == (4, 2)
    assert found.r == pytest.approx(stats.pearsonr(x[1:5], y[1:5]).statistic)
    ranked = correlation(x, y, "spearman")
    assert (ranked.n, ranked.left_out) == (6, 0)
    assert ranked.r == pytest.approx(stats.spearmanr([1.5, 3, 4, 5, 6, 1.5], y).statistic)


def residuals(a, z):
    line = stats.linregress(z, a)
    return a - (line.intercept + line.slope * z)


def test_partial_is_the_correlation_of_residuals():
    x, y = drawn(12)
    z = x + np.random.default_rng(5).normal(size=12)
    expected = stats.pearsonr(residuals(x, z), residuals(y, z)).statistic
    assert partial(x, y, z) == pytest.approx(expected)
    assert correlation(x, y, given=z).without_density == pytest.approx(expected)
    rx, ry, rz = map(stats.rankdata, (x, y, z))
    ranked = stats.pearsonr(residuals(rx, rz), residuals(ry, rz)).statistic
    assert correlation(x, y, "spearman", given=z).without_density == pytest.approx(ranked)


def test_nothing_is_left_where_density_decides_all():
    x, y = drawn(8)
    assert correlation(x, y, given=2 * x).without_density is None


def test_too_few_points():
    assert correlation([1, 2], [1, 2]).r is None
    three = correlation([1, 2, 4], [1, 3, 2])
    assert three.r is not None and three.interval is None
    assert three.p == 1.0 or three.p > 0.3


def test_leave_one_out():
    x, y = drawn(6)
    expected = [stats.pearsonr(np.delete(x, i), np.delete(y, i)).statistic for i in range(6)]
    assert leave_one_out(x, y) == pytest.approx(expected)
