import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nip.training.schedules import SCHEDULES, one_cycle, warm_up_and_fall, warm_up_and_stay


@settings(max_examples=40, deadline=None)
@given(total=st.integers(2, 300), warmup=st.floats(0.01, 1.0), peak=st.floats(1e-6, 1.0))
def test_equals_torch(total, warmup, peak):
    assume(warmup * total != 1)  # torch divides by zero there
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=peak, betas=(0.9, 0.98))
    torch_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=total, pct_start=warmup, anneal_strategy="cos"
    )
    for step in range(total):
        rate, beta = one_cycle(step, total, peak, warmup)
        (group,) = optimizer.param_groups
        assert rate == pytest.approx(group["lr"], rel=1e-9, abs=1e-18)
        assert beta == pytest.approx(group["betas"][0], rel=1e-9)
        weight.grad = torch.zeros(1)
        optimizer.step()
        if step < total - 1:
            torch_schedule.step()


def test_the_original_setting():
    rates, betas = zip(*(one_cycle(step, 5000, 1e-4, 0.2) for step in range(5000)), strict=True)
    assert rates[0] == pytest.approx(4e-6)
    assert rates.index(max(rates)) == 999 and max(rates) == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(4e-10)
    assert (betas[0], betas[999], betas[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize("warmup", [0.2, 1.0])
def test_a_single_step(warmup):
    rate, beta = one_cycle(0, 1, 1.0, warmup)
    assert 0 < rate <= 1 and 0.85 <= beta <= 0.95


@settings(max_examples=25, deadline=None)
@given(total=st.integers(2, 200), warmup=st.floats(0.01, 0.99), peak=st.floats(1e-6, 1.0))
def test_the_modern_course_equals_torch(total, warmup, peak):
    rising = int(warmup * total)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (rising + 1), 1.0, total_iters=rising)
    expected = []
    for _ in range(rising):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        up.step()
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] = peak
    down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - rising)
    for _ in range(rising, total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        down.step()
    for step, rate in enumerate(expected):
        assert warm_up_and_fall(step, total, peak, warmup) == (pytest.approx(rate, rel=1e-6, abs=1e-12), 0.9)


@given(total=st.integers(1, 300), warmup=st.floats(0.01, 1.0), step=st.integers(0, 299))
def test_constant_rises_like_the_modern_schedule_and_stays(total, warmup, step):
    step = min(step, total - 1)
    rate, beta = warm_up_and_stay(step, total, 0.5, warmup)
    rising = step < int(warmup * total)
    assert rate == pytest.approx(warm_up_and_fall(step, total, 0.5, warmup)[0] if rising else 0.5)
    assert beta == 0.9


def test_a_run_may_name_any_schedule():
    from nip.training.config import SCHEDULE_NAMES

    assert tuple(SCHEDULES) == SCHEDULE_NAMES
