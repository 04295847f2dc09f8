import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from nip.training.outcome import learnt, wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_solve_wilsons_equation(counts):
    correct, n = counts
    share, z = correct / n, norm.ppf(0.975)

    def distance(p):  # |share − p| equals z standard deviations of a share whose true value is p
        return (share - p) ** 2 - z**2 * p * (1 - p) / n

    low, high = wilson_interval(correct, n)
    assert 0 <= low <= share <= high <= 1
    if correct > 0:
        assert low == pytest.approx(brentq(distance, 0, min(share, 1 - 1e-9), xtol=1e-14), abs=1e-9)
    if correct < n:
        assert high == pytest.approx(brentq(distance, max(share, 1e-9), 1, xtol=1e-14), abs=1e-9)


def test_learnt_means_above_every_baseline_with_certainty():
    baselines = {"commonest_label": 0.17, "root_operator": 0.36}
    assert learnt((0.361, 0.4), baselines)
    assert not learnt((0.359, 0.5), baselines)
    assert not learnt((0.18, 0.2), baselines)
