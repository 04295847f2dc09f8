import pytest
import torch

from nip.pretraining import throughput
from nip.pretraining.settings import Settings
from nip.pretraining.throughput import PUBLISHED, Forecast, Stage, forecast, forecast_run, matmul_flops, time_step

STAGES = [Stage(0.9, 4096 * 128, 1e5), Stage(0.1, 4096 * 512, 5e4)]


def test_hours_are_divided_among_the_stages():
    found = forecast(STAGES, weights=10, corpus=10, hours=10)
    assert found.seconds == pytest.approx(36_000)
    assert found.tokens == pytest.approx(32_400 * 1e5 + 3_600 * 5e4)
    assert found.steps == pytest.approx(32_400 * 1e5 / (4096 * 128) + 3_600 * 5e4 / (4096 * 512))


def test_steps_and_tokens_are_divided_among_the_stages():
    steps = forecast(STAGES, weights=10, corpus=10, max_steps=100)
    assert steps.steps == pytest.approx(100)
    assert steps.tokens == pytest.approx(4096 * (90 * 128 + 10 * 512))
    assert steps.seconds == pytest.approx(4096 * (90 * 128 / 1e5 + 10 * 512 / 5e4))
    tokens = forecast(STAGES, weights=10, corpus=10, max_tokens=10**9)
    assert tokens.tokens == pytest.approx(1e9) and tokens.seconds == pytest.approx(9e8 / 1e5 + 1e8 / 5e4)


def test_the_budget_that_is_used_up_first_counts():
    alone = forecast(STAGES, weights=10, corpus=10, max_steps=100)
    for hours, first in ((0.001, False), (1000.0, True)):
        found = forecast(STAGES, weights=10, corpus=10, max_steps=100, max_tokens=10**12, hours=hours)
        assert (found == alone) == first and found.seconds <= alone.seconds
    with pytest.raises(ValueError, match="needs a budget"):
        forecast(STAGES, weights=10, corpus=10)


def test_an_early_exit_shortens_the_last_stages():
    budget = {"weights": 10, "corpus": 10, "hours": 10}
    assert forecast(STAGES, **budget, exit_hours=9.5).tokens == pytest.approx(32_400 * 1e5 + 1_800 * 5e4)
    assert forecast(STAGES, **budget, exit_hours=1).tokens == pytest.approx(3_600 * 1e5)
    assert forecast(STAGES, **budget, exit_hours=11) == forecast(STAGES, **budget)
    settings = Settings(hours=10, early_exit_hours=1, lengths=((128, 1.0),))
    assert forecast_run(settings, [1.0], 1e5, 0, fill=1.0, weights=10, corpus=10).seconds == pytest.approx(3_600)


def test_a_forecast_as_text():
    found = Forecast(tokens=1.2e9, steps=2_289, seconds=24 * 3600, weights=335_000_000, corpus=400_000_000)
    first, second = found.sentences
    assert first == (
        "In 24 h this machine trains on 1.2 billion tokens in 2,289 steps: 13,889 tokens/s, 3 epochs of the corpus, "
        "3.58 tokens per weight."
    )
    assert all(run.name in second for run in PUBLISHED) and "12.1 billion" in second
    assert found.warning.startswith(
        "1.2 billion tokens are few for 335 million weights: 20 per weight are 6.7 billion."
    )
    assert Forecast(6.8e9, 1, 90.0, 335_000_000, 1).warning is None
    assert Forecast(6.8e9, 1, 90.0, 335_000_000, 1).sentences[0].startswith("In 1.5 min this machine")


def test_tokens_of_published_runs():
    products = [23_000 * 4096 * 128, 70_000 * 4096 * 128, 1_000_000 * 256 * 512]
    assert [run.tokens for run in PUBLISHED] == pytest.approx(products, rel=0.01)


def test_the_time_of_a_step_is_a_median_after_a_warm_up(monkeypatch):
    calls, seconds = [], iter([9.0, 2.0, 3.0])
    monkeypatch.setattr(throughput, "timed", lambda step, device: (step(), next(seconds))[1])
    assert time_step(lambda: calls.append(1), torch.device("cpu")) == 3.0 and len(calls) == 4


def test_matmul_flops_are_those_of_the_fastest_product(monkeypatch):
    seconds = iter([0.5, 0.25, 1.0])
    monkeypatch.setattr(throughput, "timed", lambda call, device: (call(), next(seconds))[1])
    assert matmul_flops(torch.device("cpu"), torch.float32, side=10, tries=3) == 2 * 1000 / 0.25
    monkeypatch.undo()
    assert matmul_flops(torch.device("cpu"), torch.bfloat16, side=16, tries=2) > 0
