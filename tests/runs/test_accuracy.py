import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from nip.runs.accuracy import AccuracyCounts, learned, wilson_interval


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


def test_learned_means_above_every_baseline_with_certainty():
    baselines = {"commonest_label": 0.17, "root_operator": 0.36}
    assert learned((0.361, 0.4), baselines)
    assert not learned((0.359, 0.5), baselines)
    assert not learned((0.18, 0.2), baselines)


counts = st.lists(
    st.integers(0, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=2, max_size=30
)


@given(counts)
def test_one_answer_an_example_is_wilson_s_own(drawn):
    right = np.array([int(r > 0) for r, _ in drawn])
    answers = AccuracyCounts.counted(right, np.ones(len(right)))
    assert answers.interval == pytest.approx(wilson_interval(int(right.sum()), len(right)))


@given(counts, st.integers(0, 30))
def test_counts_of_two_halves_add_up(drawn, cut):
    right, asked = np.array(drawn).T
    whole = AccuracyCounts.counted(right[:cut], asked[:cut]) + AccuracyCounts.counted(right[cut:], asked[cut:])
    assert whole == AccuracyCounts.counted(right, asked)
    assert (whole.right, whole.asked, whole.examples) == (right.sum(), asked.sum(), (asked > 0).sum())


@given(st.lists(st.integers(0, 20), min_size=2, max_size=40))
def test_as_many_answers_in_every_example_have_the_variance_of_their_mean(right):
    answers = AccuracyCounts.counted(np.array(right), np.full(len(right), 20))
    p, variance = np.mean(right) / 20, np.var(np.array(right) / 20, ddof=1) / len(right)
    if p in (0, 1):
        assert answers.effective == len(right)
    elif variance < 1e-12:
        assert answers.effective == 20 * len(right)
    else:
        assert answers.effective == pytest.approx(min(20 * len(right), p * (1 - p) / variance))
    low, high = answers.interval
    assert 0 <= low <= answers.accuracy + 1e-12 and answers.accuracy - 1e-12 <= high <= 1


def test_the_interval_holds_the_true_share_where_answers_hang_together():
    drawn = np.random.default_rng(5)
    held = naive = 0
    for _ in range(400):
        shares = drawn.beta(1.4, 0.6, 80)  # the share of right answers differs by sequence, 0.7 on average
        asked = drawn.integers(10, 30, 80)
        right = drawn.binomial(asked, shares)
        low, high = AccuracyCounts.counted(right, asked).interval
        held += low <= 0.7 <= high
        low, high = wilson_interval(int(right.sum()), int(asked.sum()))
        naive += low <= 0.7 <= high
    assert held / 400 > 0.92
    assert naive / 400 < 0.65


def test_nothing_is_gained_where_examples_differ_less_than_chance():
    assert AccuracyCounts.counted(np.full(50, 5), np.full(50, 10)).effective == 500
