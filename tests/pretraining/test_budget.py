"""Budgets, stages, ramps and evaluation phases against their definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.pretraining.budget import HOUR, batch_size_at, end_reason, eval_every, learning_rate, share, shares, stage_at
from nip.pretraining.settings import Settings
from nip.training.checkpoint import Progress

progresses = st.builds(Progress, st.integers(0, 200), st.integers(0, 2000), st.floats(0, 4 * HOUR))


@given(progresses)
def test_the_first_budget_that_is_used_up_ends_a_run(now):
    settings = Settings(max_steps=100, max_tokens=1000, hours=2.0)
    over = now.step >= 100 or now.tokens >= 1000 or now.seconds >= 2 * HOUR
    assert (end_reason(settings, now) is not None) == over
    assert share(settings, now) == min(1.0, max(shares(settings, now).values()))
    assert (share(settings, now) == 1.0) == over


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (Progress(1000, 5, 5), "1,000 steps are done"),
        (Progress(5, 1_000_000, 5), "1,000,000 tokens are done"),
        (Progress(5, 5, 1.5 * HOUR), "1.5 hours have passed"),
        (Progress(5, 5, 5), None),
    ],
)
def test_the_reason_of_the_end(now, says):
    assert end_reason(Settings(max_steps=1000, max_tokens=1_000_000, hours=1.5), now) == says


@given(st.integers(0, 999))
def test_stages_have_their_shares(step):
    settings = Settings(max_steps=1000, lengths=((16, 0.2), (32, 0.3), (64, 0.5)))
    expected = 0 if step < 200 else 1 if step < 500 else 2
    assert stage_at(settings, share(settings, Progress(step))) == expected


@given(st.floats(0, 1), st.integers(1, 64), st.integers(1, 20))
def test_a_batch_grows_linearly(done, first, times):
    settings = Settings(max_steps=1, batch_size=first * times, ramp_from=first, ramp_share=0.6)
    now = batch_size_at(settings, done)
    assert now % first == 0
    assert first <= now <= first * times
    if done >= 0.6:
        assert now == first * times
    else:  # the largest multiple below the line
        line = first + (first * times - first) * done / 0.6
        assert now <= line + 1e-9 < now + first + 1e-6


def test_evaluations_have_three_phases():
    settings = Settings(max_steps=100, eval_every=20, eval_every_begin=2, eval_every_end=5, eval_begin_share=0.1)
    found = [eval_every(settings, share(settings, Progress(step))) for step in (0, 9, 10, 50, 94, 95, 99)]
    assert found == [2, 2, 20, 20, 20, 5, 5]
    plain = Settings(max_steps=100, eval_every=20)
    assert {eval_every(plain, step / 100) for step in range(100)} == {20}


@pytest.mark.parametrize(
    ("settings", "now", "rate"),
    [
        (Settings(max_steps=100, learning_rate=1.0, warmup=0.1), Progress(step=5), 0.5),
        (Settings(max_steps=100, learning_rate=1.0, warmup=0.1), Progress(step=55), 0.5),
        (
            Settings(max_steps=100, learning_rate=1.0, schedule="constant_step", warmup_steps=20),
            Progress(step=10),
            0.5,
        ),
        (Settings(hours=10.0, learning_rate=1.0, warmup=0.1), Progress(seconds=0.25 * HOUR), 0.25),
        (Settings(max_tokens=1000, learning_rate=2.0, warmup=0.0, curve="cosine"), Progress(tokens=500), 1.0),
        (
            Settings(max_steps=100, learning_rate=1.0, warmup=0.1, curve="exp", decay_rate=0.5, decay_step=10.0),
            Progress(step=30),
            0.25,
        ),
        (Settings(max_steps=100, learning_rate=1.0, curve="warmup-stable-decay"), Progress(step=80), 1.0),
    ],
)
def test_the_learning_rate_follows_the_unit_of_the_budget(settings, now, rate):
    assert learning_rate(settings, now) == pytest.approx(rate)
