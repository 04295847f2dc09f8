"""Masks: the right share, and always the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer

from nip.finetuning.masking import MaskedMetrics, Masking, Turns, reduce_logits


@pytest.fixture
def tokenizer(model: Path):
    return AutoTokenizer.from_pretrained(model)


def example(n: int, number: int) -> dict:
    return {"input_ids": [2, *[7] * (n - 2), 3], "special_tokens_mask": [1, *[0] * (n - 2), 1], "idx": number}


def test_shares(tokenizer):
    """15 % asked for, of them 80 % hidden and 10 % another: within five standard deviations."""
    n = 40_000
    batch = Masking(tokenizer, 0.15, 3)([example(n, 0)])
    ids, labels = batch["input_ids"][0].numpy(), batch["labels"][0].numpy()
    asked = labels != -100
    assert set(labels[asked]) == {7}
    assert not asked[[0, -1]].any()
    assert (ids[~asked][1:-1] == 7).all()
    hidden = (ids == tokenizer.mask_token_id)[asked]
    kept = (ids == 7)[asked]
    words = len(tokenizer)
    # a random token may be the mask, or the one that was there
    for share, expected, of in (
        (asked.mean(), 0.15, n),
        (hidden.mean(), 0.8 + 0.1 / words, asked.sum()),
        (kept.mean(), 0.1 + 0.1 / words, asked.sum()),
    ):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / of)


def test_masks_follow_from_seed_pass_and_number_alone(tokenizer):
    masking = Masking(tokenizer, 0.3, 5)
    examples = [example(30, number) for number in (0, 1, 2)]
    before = torch.random.get_rng_state()
    together = masking(examples)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(masking(examples[::-1])["labels"], together["labels"].flip(0))
    assert not torch.equal(together["labels"][0], together["labels"][1])
    assert not torch.equal(Masking(tokenizer, 0.3, 6)(examples)["labels"], together["labels"])
    Turns(masking).on_epoch_begin(None, SimpleNamespace(epoch=1.0), None)
    assert not torch.equal(masking(examples)["labels"], together["labels"])
    fixed = masking([example(30, -4)])["labels"]
    Turns(masking).on_epoch_begin(None, SimpleNamespace(epoch=2.5), None)
    assert torch.equal(masking([example(30, -4)])["labels"], fixed)


def test_shorter_examples_are_padded(tokenizer):
    batch = Masking(tokenizer, 0.5, 1)([example(6, 0), example(3, 1)])
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch["input_ids"][1, 3:].tolist() == [tokenizer.pad_token_id] * 3
    assert (batch["labels"][1, 3:] == -100).all()
    assert Masking(tokenizer, 0.5, 1, 9)([example(6, 0)])["input_ids"].shape == (1, 9)


def test_sums_of_each_example():
    drawn = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 7, generator=drawn), torch.randint(7, (3, 5), generator=drawn)
    labels[0, 2:] = labels[2] = -100
    sums = reduce_logits(logits, labels)
    for row in range(3):
        asked = labels[row] != -100
        loss = functional.cross_entropy(logits[row][asked], labels[row][asked], reduction="sum").item()
        right = (logits[row][asked].argmax(-1) == labels[row][asked]).sum().item()
        assert sums[row].tolist() == pytest.approx([loss, right, asked.sum().item()], rel=1e-5)
    metrics = MaskedMetrics()
    assert metrics(SimpleNamespace(predictions=sums.numpy()))["accuracy"] == pytest.approx(sums[:, 1].sum() / 7)
    assert (metrics.answers.asked, metrics.answers.examples) == (7, 2)
