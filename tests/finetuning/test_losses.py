"""Losses do not depend on the split into micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from nip.finetuning.losses import classification_loss, regression_loss


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_micro_batches_add_up_to_the_batch(seed: int, sizes: list[int]):
    drawn = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    logits = torch.randn(n, 6, 5, generator=drawn, dtype=torch.float64)
    labels = torch.randint(5, (n, 6), generator=drawn)
    labels[torch.rand(n, 6, generator=drawn) < 0.6] = -100
    labels[0, 0] = 1
    items = (labels != -100).sum()
    expected = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [
        classification_loss({"logits": logits[a : a + size]}, labels[a : a + size], items)
        for a, size in zip(starts, sizes, strict=True)
    ]
    assert torch.stack(parts).sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert classification_loss({"logits": logits}, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_equals_torchs():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.isclose(
        classification_loss({"logits": logits}, labels, torch.tensor(4), label_smoothing=0.1), expected
    )


def test_regression():
    logits, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert regression_loss({"logits": logits}, labels, torch.tensor(2)).item() == pytest.approx((1 + 4) / 2)


def test_a_step_without_labels_has_loss_zero():
    labels = torch.full((1, 3), -100)
    assert classification_loss({"logits": torch.randn(1, 3, 4)}, labels).item() == 0.0
