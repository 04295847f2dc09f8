"""Masks, the loss and metrics of masked tokens."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, AutoTokenizer

from nip.finetuning.losses import classification_loss
from nip.finetuning.masked_lm.masking import (
    CountEpochs,
    MaskedMetrics,
    MaskingCollator,
    accuracy_and_perplexity,
    masked_loss,
    masked_tokens_only,
    reduce_logits,
)


@pytest.fixture
def tokenizer(model: Path):
    return AutoTokenizer.from_pretrained(model)


def example(n: int, number: int) -> dict:
    return {"input_ids": [2, *[7] * (n - 2), 3], "special_tokens_mask": [1, *[0] * (n - 2), 1], "idx": number}


def test_fractions_of_masked_tokens(tokenizer):
    """15 % asked for, of them 80 % hidden and 10 % another: within five standard deviations."""
    n = 40_000
    batch = MaskingCollator(tokenizer, 0.15, 3)([example(n, 0)])
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


def test_masks_depend_on_seed_epoch_and_example_only(tokenizer):
    masking = MaskingCollator(tokenizer, 0.3, 5)
    examples = [example(30, number) for number in (0, 1, 2)]
    before = torch.random.get_rng_state()
    together = masking(examples)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(masking(examples[::-1])["labels"], together["labels"].flip(0))
    assert not torch.equal(together["labels"][0], together["labels"][1])
    assert not torch.equal(MaskingCollator(tokenizer, 0.3, 6)(examples)["labels"], together["labels"])
    CountEpochs(masking).on_epoch_begin(None, SimpleNamespace(epoch=1.0), None)
    assert not torch.equal(masking(examples)["labels"], together["labels"])
    fixed = masking([example(30, -4)])["labels"]
    CountEpochs(masking).on_epoch_begin(None, SimpleNamespace(epoch=2.5), None)
    assert torch.equal(masking([example(30, -4)])["labels"], fixed)


def test_shorter_examples_are_padded(tokenizer):
    batch = MaskingCollator(tokenizer, 0.5, 1)([example(6, 0), example(3, 1)])
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch["input_ids"][1, 3:].tolist() == [tokenizer.pad_token_id] * 3
    assert (batch["labels"][1, 3:] == -100).all()
    assert MaskingCollator(tokenizer, 0.5, 1, 9)([example(6, 0)])["input_ids"].shape == (1, 9)


def test_reduced_logits():
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
    assert (metrics.counts.asked, metrics.counts.examples) == (7, 2)


def test_perplexity_is_over_all_tokens_together():
    sums = np.array([[3.0, 1, 2], [1.0, 0, 1], [0.0, 0, 0]])
    assert accuracy_and_perplexity(sums) == {
        "accuracy": pytest.approx(1 / 3),
        "perplexity": pytest.approx(math.exp(4 / 3)),
    }
    assert all(map(math.isnan, accuracy_and_perplexity(np.zeros((2, 3))).values()))


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
FAMILIES = {
    "bert": TINY,
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "electra": {**TINY, "embedding_size": 8},
    "modernbert": {**TINY, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
    "roberta": TINY,
    "roberta-prelayernorm": TINY,
    "xlm-roberta": TINY,
    # its output layer is a matrix put together of two: all scores, as ever
    "mobilebert": {**TINY, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_layer_sees_the_masked_tokens_only(family):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](vocab_size=40, max_position_embeddings=32, **FAMILIES[family])
    model = AutoModelForMaskedLM.from_config(config).eval()
    ids = torch.randint(5, 40, (3, 12))
    labels = torch.where(torch.rand(3, 12) < 0.3, ids, -100)
    labels[1] = -100
    asked = int((labels != -100).sum())
    rows = []
    watch = model.get_output_embeddings().register_forward_hook(lambda _, inputs, out: rows.append(out.shape[:-1]))

    def gradients(narrow):
        model.zero_grad()
        if narrow:
            with masked_tokens_only(model, labels):
                scores = model(input_ids=ids)
        else:
            scores = model(input_ids=ids)
        loss = masked_loss(classification_loss)(scores, labels, torch.tensor(2 * asked))
        loss.backward()
        found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
        return loss.detach(), reduce_logits(scores["logits"].detach(), labels), found

    loss, sums, narrow = gradients(True)
    full_loss, full_sums, full = gradients(False)
    watch.remove()
    assert rows == ([] if family == "mobilebert" else [(asked,), (3, 12)])
    torch.testing.assert_close(loss, full_loss)
    torch.testing.assert_close(sums, full_sums)
    assert sums[1].tolist() == [0, 0, 0] and sums[:, 2].sum() == asked
    assert narrow.keys() == full.keys()
    for name in full:
        torch.testing.assert_close(narrow[name], full[name], msg=name)


def test_no_masked_tokens():
    config = CONFIG_MAPPING["bert"](vocab_size=40, max_position_embeddings=32, **TINY)
    model = AutoModelForMaskedLM.from_config(config)
    labels = torch.full((2, 8), -100)
    with masked_tokens_only(model, labels):
        scores = model(input_ids=torch.ones_like(labels))
    masked_loss(classification_loss)(scores, labels).backward()
    assert scores["logits"].shape == (0, 40)
    assert not model.get_input_embeddings().weight.grad.any()
    assert not reduce_logits(scores["logits"], labels).any()
