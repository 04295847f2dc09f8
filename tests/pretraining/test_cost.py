from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nip.graphs import pattern
from nip.graphs.exchange import to_mask
from nip.pretraining.cost import OPTIMIZER_STATES, attended_pairs, training_flops, training_memory
from nip.pretraining.model import MaskedLMObjective, ModelSettings, build_model
from nip.pretraining.settings import ARCHITECTURES
from nip.training.optimizers import OPTIMIZERS, make_optimizer

SMALL = ModelSettings(2, 16, 2, 48, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0)


@given(
    n_tokens=st.integers(1, 80),
    block_size=st.integers(1, 16),
    name=st.sampled_from(["hypercube", "bigbird", "softmax"]),
)
def test_attended_pairs_equal_those_of_the_mask(n_tokens, block_size, name):
    graph = pattern(name, -(-n_tokens // block_size))
    mask = np.kron(to_mask(graph), np.ones((block_size, block_size)))[:n_tokens, :n_tokens]
    assert attended_pairs(graph, block_size, n_tokens) == mask.sum()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["softmax", "hypercube"])
def test_flops_equal_those_that_torch_counts(vocabulary, architecture, name):
    b, length, masked = 3, 32, 5
    model = build_model(replace(SMALL, architecture=architecture), vocabulary, name, block_size=4, backend="reference")
    ids = torch.randint(5, 61, (b, length))
    positions = torch.cat([row * length + torch.arange(masked) for row in range(b)])
    with FlopCounterMode(display=False) as counter:
        sums = MaskedLMObjective(model)(ids, positions, ids.flatten()[positions])
        sums.loss.backward()
    flops = training_flops(model, length, masked)
    # the reference backend computes all pairs, for any graph
    dense = training_flops(
        build_model(replace(SMALL, architecture=architecture), vocabulary, "softmax"), length, masked
    )
    assert counter.get_total_flops() == pytest.approx((flops.linear + flops.head + dense.attention) * b * length)
    share = attended_pairs(pattern(name, 8), 4, length) / length**2
    assert flops.attention == pytest.approx(share * dense.attention) and (share < 1) == (name == "hypercube")


def test_a_model_without_weights_has_the_same_flops(vocabulary):
    with torch.device("meta"):
        model = build_model(ModelSettings.of_size("base"), vocabulary, "softmax")
    flops = training_flops(model, 512, 77)
    # 12 layers of 12 · 768² weights, six operations each; two products of 512 × 768 a layer
    assert flops.linear == 6 * 12 * 12 * 768**2 and flops.attention == 6 * 12 * 2 * 512 * 768
    assert flops.head == pytest.approx(6 * (768**2 + 768 * 64) * 77 / 512)
    assert flops.total == flops.linear + flops.attention + flops.head


def test_the_pooler_does_not_count(vocabulary):
    plain = training_flops(build_model(SMALL, vocabulary), 32, 5)
    assert training_flops(build_model(replace(SMALL, next_sentence=True), vocabulary), 32, 5).linear == plain.linear


SETTINGS = ModelSettings(3, 64, 2, 256, max_position_embeddings=256, attention_probs_dropout_prob=0)


def kept_bytes(model, half):
    """Bytes that a forward pass keeps for the backward pass, without the weights."""
    ids = torch.randint(5, 61, (4, 256))
    positions = torch.arange(0, ids.numel(), 8)
    segments = torch.where(torch.arange(256) < 100, 1, 2).expand(4, -1).contiguous()
    own, found = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # referenced, so that its memory is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", torch.bfloat16, half):
        MaskedLMObjective(model).train()(ids, positions, ids.flatten()[positions], segments)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dropout", "half"), [(0.0, False), (0.1, False), (0.1, True)])
def test_activations_are_about_as_estimated(vocabulary, architecture, dropout, half):
    settings = replace(SETTINGS, architecture=architecture, hidden_dropout_prob=dropout)
    model = build_model(settings, vocabulary, "hypercube", backend="gather" if half else "auto")
    estimate = training_memory(model, 256, 4, 32, half=half)
    assert estimate.activations + estimate.head == pytest.approx(kept_bytes(model, half), rel=1 / 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_checkpointing_needs_little_memory(vocabulary, architecture):
    model = build_model(replace(SETTINGS, architecture=architecture, num_hidden_layers=6), vocabulary, backend="gather")
    layer = training_memory(model, 256, 4, 32).activations / 6
    model.gradient_checkpointing_enable()
    estimate = training_memory(model, 256, 4, 32, checkpointing=True)
    assert estimate.activations + estimate.head == pytest.approx(kept_bytes(model, False) + layer, rel=1 / 3)
    assert estimate.activations < 3 * layer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_state_is_about_as_estimated(vocabulary, name):
    model = build_model(replace(SETTINGS, num_hidden_layers=1), vocabulary)
    optimizer = make_optimizer(model, name, learning_rate=0.01)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    nbytes = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x))
    estimate = training_memory(model, 256, 1, 32, optimizer=name)
    temporary = estimate.weights if name.startswith("lamb") else 0
    assert estimate.moments == pytest.approx(nbytes + temporary, rel=0.02, abs=0.06 * estimate.weights)
    assert estimate.weights == sum(weight.nbytes for weight in model.parameters()) == estimate.gradients
    assert OPTIMIZER_STATES.keys() == set(OPTIMIZERS)


def test_sharding_reduces_the_memory(vocabulary):
    model = build_model(SETTINGS, vocabulary)
    one = training_memory(model, 256, 4, 32)
    fsdp = training_memory(model, 256, 4, 32, weight_shards=4)
    zero = training_memory(model, 256, 4, 32, state_shards=4)
    assert (fsdp.weights, fsdp.gradients, fsdp.moments) == (one.weights / 4, one.gradients / 4, one.moments / 4)
    assert (zero.weights, zero.gradients, zero.moments) == (one.weights, one.gradients, one.moments / 4)
    assert fsdp.activations == zero.activations == one.activations
    assert one.total == one.weights + one.gradients + one.moments + one.activations + one.head


def test_memory_as_text(vocabulary):
    with torch.device("meta"):
        model = build_model(ModelSettings.of_size("large", vocab_size=30528), vocabulary)
    text = str(training_memory(model, 128, 32, 20, half=True))
    assert "weights 1.25 GiB, gradients 1.25 GiB, optimizer 2.5 GiB" in text and "GiB (weights" in text
