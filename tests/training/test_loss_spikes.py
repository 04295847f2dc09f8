"""The watch on the loss, against plain averages."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.training.loss_spikes import KEPT, SETTLED, LossSpikeDetector


@given(st.lists(st.floats(0, 10), min_size=1, max_size=int(1 / (1 - KEPT))))
def test_at_first_the_averages_are_those_of_all_steps(losses):
    guard = LossSpikeDetector()
    for loss in losses:
        guard.accept(loss)
    assert guard.mean == pytest.approx(np.mean(losses))
    expected = np.mean(np.diff(losses) ** 2) / 2 if len(losses) > 1 else 0.0
    assert guard.variance == pytest.approx(expected, abs=1e-9)


def test_a_jump_is_told_from_the_course_of_things():
    guard = LossSpikeDetector()
    draw = np.random.default_rng(0)
    assert guard.objection(100.0, 1.0, 10.0) is None  # nothing is known yet
    for step in range(500):
        loss = 8 - 5 * step / 500 + 0.1 * draw.normal()
        assert guard.objection(loss, 1.0, 10.0) is None
        guard.accept(loss)
    assert guard.objection(6.5, 1.0, 10.0) is not None
    assert guard.objection(6.5, 1.0, 0.0) is None
    assert guard.objection(math.inf, 1.0, 0.0) == "its loss is inf"
    assert guard.objection(3.0, math.nan, 0.0) == "the norm of its gradient is nan"


def test_what_is_counted():
    guard = LossSpikeDetector()
    for _ in range(SETTLED):
        guard.accept(3.0)
    guard.skip()
    guard.skip()
    assert (guard.bad, guard.skipped) == (2, 2)
    guard.accept(3.0)
    assert (guard.bad, guard.skipped) == (0, 2)
    guard.forget()
    assert guard.objection(50.0, 1.0, 10.0) is None
