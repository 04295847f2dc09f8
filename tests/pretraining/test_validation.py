"""Evaluations of a run against its saved model, computed sample by sample with transformers' loss."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from nip.data.corpus import open_corpus
from nip.models.huggingface.masks import packed
from nip.pretraining.export import load_model
from nip.pretraining.microbatches import HELD_OUT_EPOCH
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings
from nip.pretraining.setup import masking_of
from nip.pretraining.validation import commonest_token
from nip.runs.folder import read_metrics


@pytest.fixture
def settings():
    small = {"layers": 1, "width": 16, "heads": 2, "inner_width": 32, "block_size": 8, "batch_size": 8, "eval_every": 2}
    return Settings(size="tiny", lengths=((32, 1.0),), max_steps=3, learning_rate=1e-2, track="none", **small)


@pytest.mark.parametrize("limit", [3, 1000])
def test_the_final_evaluation_is_that_of_the_saved_model(settings, corpora, tmp_path, limit):
    settings = dataclasses.replace(settings, eval_samples=limit, eval_micro_batch=2)
    result = pretrain(settings, corpora["packed"], tmp_path / "run")
    model = load_model(tmp_path / "run").eval()
    corpus = open_corpus(corpora["packed"], "test", max_seq_length=32)
    n = min(len(corpus), 4 * limit)
    total, right, asked = 0.0, 0, 0
    for place in range(n):
        batch = corpus.batch(np.array([place]), seed=0, epoch=HELD_OUT_EPOCH)
        masked = corpus.masked(batch, masking_of(settings, 32), seed=0, epoch=HELD_OUT_EPOCH)
        labels = torch.from_numpy(masked.labels)
        mask = packed(torch.from_numpy(batch.segment_ids))
        with torch.no_grad():
            out = model(input_ids=torch.from_numpy(masked.input_ids), attention_mask=mask, labels=labels)
        number = int((labels != -100).sum())
        total += float(out.loss) * number
        right += int(((out.logits.argmax(-1) == labels) & (labels != -100)).sum())
        asked += number
    assert result["n_test"] == n
    assert result["n_answers"] == asked
    assert result["test_loss"] == pytest.approx(total / asked, rel=1e-5)
    assert result["test_accuracy"] == pytest.approx(right / asked)


def test_next_sentence_prediction_is_evaluated(settings, corpora, tmp_path):
    settings = dataclasses.replace(settings, next_sentence=True, architecture="bert")
    result = pretrain(settings, corpora["pairs"], tmp_path / "run")
    assert 0 <= result["sentence_accuracy"] <= 1
    rows = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["split"] == "dev"]
    assert all("sentence_accuracy" in row for row in rows)


def test_the_baseline_of_the_most_common_token(corpora):
    corpora = {split: open_corpus(corpora["packed"], split, max_seq_length=32) for split in ("train", "test")}
    counts = {}
    for split, corpus in corpora.items():
        words = corpus.samples(np.arange(len(corpus))).input_ids.ravel().tolist()
        counts[split] = Counter(word for word in words if word not in corpus.vocabulary.special)
    word = counts["train"].most_common(1)[0][0]
    expected = counts["test"][word] / sum(counts["test"].values())
    assert commonest_token(corpora["train"], corpora["test"]) == pytest.approx(expected)
