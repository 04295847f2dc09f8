"""The loss-spike detector against plain averages."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.training.loss_spikes import DECAY, MIN_STEPS, LossSpikeDetector


@given(st.lists(st.floats(0, 10), min_size=1, max_size=int(1 / (1 - DECAY))))
def test_at_first_the_averages_are_plain_means(losses):
    detector = LossSpikeDetector()
    for loss in losses:
        detector.accept(loss)
    assert detector.mean == pytest.approx(np.mean(losses))
    expected = np.mean(np.diff(losses) ** 2) / 2 if len(losses) > 1 else 0.0
    assert detector.variance == pytest.approx(expected, abs=1e-9)


def test_a_spike_is_detected_on_a_noisy_falling_loss():
    detector = LossSpikeDetector()
    draw = np.random.default_rng(0)
    assert detector.skip_reason(100.0, 1.0, 10.0) is None  # too few steps
    for step in range(500):
        loss = 8 - 5 * step / 500 + 0.1 * draw.normal()
        assert detector.skip_reason(loss, 1.0, 10.0) is None
        detector.accept(loss)
    assert detector.skip_reason(6.5, 1.0, 10.0) is not None
    assert detector.skip_reason(6.5, 1.0, 0.0) is None
    assert detector.skip_reason(math.inf, 1.0, 0.0) == "its loss is inf"
    assert detector.skip_reason(3.0, math.nan, 0.0) == "the norm of its gradient is nan"


def test_counts_of_skipped_steps_and_reset():
    detector = LossSpikeDetector()
    for _ in range(MIN_STEPS):
        detector.accept(3.0)
    detector.skip()
    detector.skip()
    assert (detector.bad, detector.skipped) == (2, 2)
    detector.accept(3.0)
    assert (detector.bad, detector.skipped) == (0, 2)
    detector.reset()
    assert detector.skip_reason(50.0, 1.0, 10.0) is None
