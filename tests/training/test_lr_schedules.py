import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nip.training.lr_schedules import CURVES, SCHEDULES, LRSchedule, one_cycle, warmup_constant, warmup_cosine


@settings(max_examples=40, deadline=None)
@given(total=st.integers(2, 300), warmup=st.floats(0.01, 1.0), peak=st.floats(1e-6, 1.0))
def test_one_cycle_equals_torch(total, warmup, peak):
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


def test_one_cycle_with_the_original_settings():
    rates, betas = zip(*(one_cycle(step, 5000, 1e-4, 0.2) for step in range(5000)), strict=True)
    assert rates[0] == pytest.approx(4e-6)
    assert rates.index(max(rates)) == 999 and max(rates) == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(4e-10)
    assert (betas[0], betas[999], betas[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize("warmup", [0.2, 1.0])
def test_one_cycle_with_a_single_step(warmup):
    rate, beta = one_cycle(0, 1, 1.0, warmup)
    assert 0 < rate <= 1 and 0.85 <= beta <= 0.95


@settings(max_examples=25, deadline=None)
@given(total=st.integers(2, 200), warmup=st.floats(0.01, 0.99), peak=st.floats(1e-6, 1.0))
def test_warmup_cosine_equals_torch(total, warmup, peak):
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
        assert warmup_cosine(step, total, peak, warmup) == (pytest.approx(rate, rel=1e-6, abs=1e-12), 0.9)


@given(total=st.integers(1, 300), warmup=st.floats(0.01, 1.0), step=st.integers(0, 299))
def test_warmup_constant_rises_like_warmup_cosine_and_is_then_constant(total, warmup, step):
    step = min(step, total - 1)
    rate, beta = warmup_constant(step, total, 0.5, warmup)
    rising = step < int(warmup * total)
    assert rate == pytest.approx(warmup_cosine(step, total, 0.5, warmup)[0] if rising else 0.5)
    assert beta == 0.9


def test_configurations_may_name_every_schedule():
    from nip.lra.config import SCHEDULE_NAMES

    assert tuple(SCHEDULES) == SCHEDULE_NAMES


@pytest.mark.parametrize(
    ("curve", "form"), [("linear", "linear"), ("cosine", "cosine"), ("warmup-stable-decay", "wsd")]
)
@settings(max_examples=15, deadline=None)
@given(total=st.integers(2, 100), warmup=st.floats(0, 0.9), decay=st.floats(0.05, 1.0))
def test_curves_equal_those_of_transformers(curve, form, total, warmup, decay):
    from transformers import get_scheduler

    rising, falling = int(warmup * total), min(int(decay * total), total - int(warmup * total))
    assume(falling > 0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    if form == "wsd":
        special = {"num_decay_steps": falling, "decay_type": "1-sqrt"}
        theirs = get_scheduler("warmup_stable_decay", optimizer, rising, total, special)
    else:
        theirs = get_scheduler(form, optimizer, rising, total)
    schedule = LRSchedule(curve, 0.5, rising, decay_share=falling / total)
    for step in range(total):
        assert schedule.rate(step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        optimizer.step()
        theirs.step()


@given(step=st.floats(0, 300), warmup=st.floats(1, 100), rate=st.floats(0.5, 1.0), every=st.floats(1, 50))
def test_the_exponential_curve_has_quadratic_warmup_and_decays_by_a_factor(step, warmup, rate, every):
    schedule = LRSchedule("exp", 2.0, warmup, decay_rate=rate, decay_step=every)
    found = schedule.rate(step, 300)
    if step < warmup:
        assert found == pytest.approx(2 * (step / warmup) ** 2)
    else:
        assert math.log(found / 2) == pytest.approx((step - warmup) / every * math.log(rate), abs=1e-9)
    assert schedule.rate(warmup + every, 1000) == pytest.approx(2 * rate)


@pytest.mark.parametrize("curve", CURVES)
@given(warmup=st.just(0.0) | st.floats(1e-6, 0.9), position=st.floats(0, 2), unit=st.floats(0.1, 1e9))
def test_curves_do_not_depend_on_the_unit(curve, warmup, position, unit):
    schedule = LRSchedule(curve, 1.0, warmup, decay_rate=0.5, decay_step=0.1)
    scaled = LRSchedule(curve, 1.0, warmup * unit, decay_rate=0.5, decay_step=0.1 * unit)
    found = schedule.rate(position, 1.0)
    assert 0 <= found <= 1
    assert scaled.rate(position * unit, unit) == pytest.approx(found, abs=1e-6)
    assert schedule.rate(1.0, 1.0) == schedule.rate(1.5, 1.0)  # after the end as at the end


def test_warmup_stable_decay_is_flat_and_ends_at_zero():
    schedule = LRSchedule("warmup-stable-decay", 3.0, 10, decay_share=0.2)
    assert {schedule.rate(step, 100) for step in range(10, 81)} == {3.0}
    assert schedule.rate(85, 100) == pytest.approx(1.5) and schedule.rate(100, 100) == 0.0
    late = LRSchedule("warmup-stable-decay", 3.0, 60, decay_share=0.8)  # the warmup ends after the decay would start
    assert [late.rate(step, 100) for step in (30, 60, 70)] == pytest.approx([1.5, 3.0, 1.5])


def test_an_unknown_curve():
    with pytest.raises(ValueError, match=r"no curve 'flat'\. The curves are linear, exp, cosine, warmup-stable-decay"):
        LRSchedule("flat", 1.0, 0.0)
