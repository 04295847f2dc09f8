from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nip.graphs import pattern
from nip.graphs.exchange import to_mask
from nip.training.pretraining import flops
from nip.training.pretraining.flops import attended_pairs, matmul_peak, work_of
from nip.training.pretraining.model import FAMILIES, ModelSettings, build_model
from nip.training.pretraining.objective import MaskedObjective

SMALL = ModelSettings(2, 16, 2, 48, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0)


@given(
    n_tokens=st.integers(1, 80),
    block_size=st.integers(1, 16),
    name=st.sampled_from(["hypercube", "bigbird", "softmax"]),
)
def test_pairs_are_those_of_the_mask(n_tokens, block_size, name):
    graph = pattern(name, -(-n_tokens // block_size))
    mask = np.kron(to_mask(graph), np.ones((block_size, block_size)))[:n_tokens, :n_tokens]
    assert attended_pairs(graph, block_size, n_tokens) == mask.sum()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["softmax", "hypercube"])
def test_work_is_what_torch_counts(vocabulary, family, name):
    b, length, masked = 3, 32, 5
    model = build_model(replace(SMALL, family=family), vocabulary, name, block_size=4, backend="reference")
    ids = torch.randint(5, 61, (b, length))
    positions = torch.cat([row * length + torch.arange(masked) for row in range(b)])
    with FlopCounterMode(display=False) as counter:
        sums = MaskedObjective(model)(ids, positions, ids.flatten()[positions])
        sums.loss.backward()
    work = work_of(model, length, masked)
    # the reference multiplies all pairs, whatever the graph
    dense = work_of(build_model(replace(SMALL, family=family), vocabulary, "softmax"), length, masked)
    assert counter.get_total_flops() == pytest.approx((work.linear + work.head + dense.attention) * b * length)
    share = attended_pairs(pattern(name, 8), 4, length) / length**2
    assert work.attention == pytest.approx(share * dense.attention) and (share < 1) == (name == "hypercube")


def test_a_model_without_weights_has_the_same_work(vocabulary):
    with torch.device("meta"):
        model = build_model(ModelSettings.of_size("base"), vocabulary, "softmax")
    work = work_of(model, 512, 77)
    # 12 layers of 12 · 768² weights, six operations each; two products of 512 × 768 a layer
    assert work.linear == 6 * 12 * 12 * 768**2 and work.attention == 6 * 12 * 2 * 512 * 768
    assert work.head == pytest.approx(6 * (768**2 + 768 * 64) * 77 / 512)
    assert work.total == work.linear + work.attention + work.head


def test_the_pooler_of_pairs_is_no_work_of_a_token(vocabulary):
    plain = work_of(build_model(SMALL, vocabulary), 32, 5)
    assert work_of(build_model(replace(SMALL, next_sentence=True), vocabulary), 32, 5).linear == plain.linear


def test_the_peak_is_that_of_the_fastest_product(monkeypatch):
    seconds = iter([0.5, 0.25, 1.0])
    monkeypatch.setattr(flops, "timed", lambda call, device: (call(), next(seconds))[1])
    assert matmul_peak(torch.device("cpu"), torch.float32, side=10, tries=3) == 2 * 1000 / 0.25
    monkeypatch.undo()
    assert matmul_peak(torch.device("cpu"), torch.bfloat16, side=16, tries=2) > 0
