"""Checks and warnings before a run."""

import pytest
import torch

from nip.pretraining import checks
from nip.pretraining.checks import slow_precision
from nip.pretraining.plan import plan
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings


@pytest.mark.parametrize(
    ("precision", "device", "bf16", "slow"),
    [
        ("fp32", "cpu", False, False),
        ("bf16", "cpu", False, True),
        ("bf16", "cpu", True, False),
        ("fp16", "cpu", True, True),
        ("bf16", "cuda", False, False),
        ("fp16", "cuda", False, False),
    ],
)
def test_a_precision_that_the_processor_emulates(monkeypatch, precision, device, bf16, slow):
    monkeypatch.setattr(checks, "computes_bf16", lambda: bf16)
    warning = slow_precision(Settings(max_steps=1, precision=precision), torch.device(device))
    assert (warning is not None) == slow
    assert warning is None or f"emulates {precision}" in warning


@pytest.mark.parametrize("bf16", [True, False])
def test_the_plan_and_the_run_warn_of_it(corpora, tmp_path, monkeypatch, capsys, bf16):
    monkeypatch.setattr(checks, "computes_bf16", lambda: bf16)
    settings = Settings(
        size="tiny",
        layers=1,
        width=16,
        heads=2,
        inner_width=16,
        block_size=8,
        lengths=((16, 1.0),),
        batch_size=2,
        micro_batch=2,
        max_steps=1,
        eval_samples=2,
        precision="bf16",
        track="none",
    )
    planned = plan(settings, corpora["packed"])
    assert ("Warning: This processor" in str(planned)) == (not bf16)
    assert len(planned.to_dict()["warnings"]) == 1 + (not bf16)  # the other: few tokens
    assert "in 1 step:" in str(planned)
    pretrain(settings, corpora["packed"], tmp_path / "run")
    assert ("Warning: This processor" in capsys.readouterr().err) == (not bf16)
