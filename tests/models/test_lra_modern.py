"""The modern encoder against one written out in double precision, and its denoiser."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import nip
from nip.graphs import lift, to_mask
from nip.models import EncoderConfig, build_classifier, build_denoiser

CONFIG = EncoderConfig(
    vocab_size=12, n_classes=3, length=40, positions=40, block_size=8, repeats=1, head_dim=8, rotary=True, gated=True,
    masked=True,
)  # fmt: skip


def written_out(model, input_ids, real, graph, columns=None):
    """Every token after the last LayerNorm: rotary positions as complex numbers, attention over a dense mask."""
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    config = model.config
    length, pairs = input_ids.shape[1], config.head_dim // 2
    allowed = torch.from_numpy(to_mask(lift(graph, config.block_size)))[:length, :length] & real[:, None, None, :]

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (config.width,), w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    place = torch.arange(length, dtype=torch.float64)
    if columns is None:
        angles = place[:, None] * 10_000 ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
    else:
        speed = 100 ** -(torch.arange(pairs // 2, dtype=torch.float64) / (pairs // 2))
        angles = torch.cat([(place // columns)[:, None] * speed, (place % columns)[:, None] * speed], 1)
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotated(x):
        return torch.complex(x[..., :pairs], x[..., pairs:]) * turn

    x = w["tokens.weight"][input_ids]
    for number in range(config.layers):
        name = f"layers.{number}"
        q, k, v = (
            linear(norm(x, f"{name}.attention_norm"), f"{name}.qkv")
            .unflatten(-1, (3, config.heads, config.head_dim))
            .permute(2, 0, 3, 1, 4)
        )
        scores = (rotated(q) @ rotated(k).conj().transpose(-1, -2)).real / math.sqrt(config.head_dim)
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0.0)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attention_out")
        gate, value = linear(norm(x, f"{name}.inner_norm"), f"{name}.up").split(config.inner_width, -1)
        x = x + linear(gate * (1 + torch.erf(gate / math.sqrt(2))) / 2 * value, f"{name}.down")
    return norm(x, "norm")


def sample(lengths, width=40, seed=0):
    input_ids = torch.randint(1, 12, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    return input_ids.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], 0)


@pytest.mark.parametrize("columns", [None, 8])
@pytest.mark.parametrize("name", ["softmax", "hypercube", "bigbird"])
def test_equals_the_written_out_computation(name, columns):
    graph = nip.pattern(name, 5)
    model = build_classifier(dataclasses.replace(CONFIG, columns=columns), graph, seed=1).eval()
    input_ids = sample([40, 17, 3])
    real = input_ids != 0
    features = written_out(model, input_ids, real, graph, columns)
    found = model.features(input_ids, real)
    assert_close(found[real].double(), features[real], atol=5e-6, rtol=1e-5)  # fp32 against fp64
    mean = (features * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    hidden = (mean @ w["hidden.weight"].T + w["hidden.bias"]).relu()
    scores = hidden @ w["output.weight"].T + w["output.bias"]
    assert_close(model(input_ids, real).double(), scores, atol=5e-6, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    name=st.sampled_from(["softmax", "hypercube", "random"]),
    columns=st.sampled_from([None, 8]),
)
def test_padding_may_be_left_off(lengths, name, columns):
    model = build_classifier(dataclasses.replace(CONFIG, columns=columns), nip.pattern(name, 5), seed=2).eval()
    trimmed, full = sample(lengths, max(lengths)), torch.zeros(len(lengths), 40, dtype=torch.int64)
    full[:, : max(lengths)] = trimmed
    assert_close(model(trimmed), model(full), atol=1e-6, rtol=1e-5)


def test_a_sequence_may_be_moved():
    # rotary positions know of differences only; over the complete graph nothing else knows where a token stands
    model = build_classifier(CONFIG, nip.pattern("softmax", 5), seed=3).eval()
    at_the_start, later = torch.zeros(1, 40, dtype=torch.int64), torch.zeros(1, 40, dtype=torch.int64)
    at_the_start[0, :9], later[0, 26:35] = sample([9], 9)[0], sample([9], 9)[0]
    assert_close(model(later), model(at_the_start), atol=1e-6, rtol=1e-5)
    later[0, [26, 27]] = later[0, [27, 26]]
    assert (model(later) - model(at_the_start)).abs().max() > 1e-4  # but the order counts


def test_there_is_no_position_table_and_one_more_token():
    model = build_classifier(dataclasses.replace(CONFIG, positions=1), nip.pattern("hypercube", 5), seed=0)
    weights = dict(model.named_parameters())
    assert "positions.weight" not in weights
    assert weights["tokens.weight"].shape == (13, 64)
    assert weights["layers.0.up.weight"].shape == (256, 64) and weights["layers.0.down.weight"].shape == (64, 128)
    plain = dataclasses.replace(CONFIG, masked=False)
    assert build_classifier(plain, nip.pattern("hypercube", 5), seed=0).tokens.weight.shape == (12, 64)


def test_heads_that_cannot_be_turned_are_refused_at_once():
    with pytest.raises(ValueError, match="must be a multiple of 4 for an image"):
        dataclasses.replace(CONFIG, columns=8, head_dim=6)
    with pytest.raises(ValueError, match="must be a multiple of 2 for a sequence"):
        dataclasses.replace(CONFIG, head_dim=7)


@pytest.mark.parametrize("modern", [True, False])
def test_gradient_checkpointing_changes_no_number(modern):
    config = dataclasses.replace(
        CONFIG, dropout=0.3, attention_dropout=0.2, repeats=2, rotary=modern, gated=modern, masked=modern
    )
    found = []
    for kept in (False, True):
        model = build_classifier(
            dataclasses.replace(config, gradient_checkpointing=kept), nip.pattern("hypercube", 5), seed=4
        ).train()
        torch.manual_seed(5)
        scores = model(sample([40, 21]))
        scores.square().sum().backward()
        found.append([scores.detach(), *(weight.grad for weight in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradient_checkpointing_keeps_less():
    kept = []
    for checkpointing in (False, True):
        config = dataclasses.replace(CONFIG, layers=6, gradient_checkpointing=checkpointing)
        model = build_classifier(config, nip.pattern("hypercube", 5), seed=4)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(sample([40] * 4))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_a_denoiser_shares_the_classifiers_first_weights():
    graph = nip.pattern("hypercube", 5)
    denoiser, classifier = (
        build_denoiser(CONFIG, graph, outputs=12, seed=6).state_dict(),
        build_classifier(CONFIG, graph, seed=6).state_dict(),
    )
    assert set(denoiser) - set(classifier) == {"restored.weight", "restored.bias"}
    assert set(classifier) - set(denoiser) == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}
    for name in set(denoiser) & set(classifier):
        assert torch.equal(denoiser[name], classifier[name]), name


def test_a_denoiser_says_something_of_every_token():
    graph = nip.pattern("bigbird", 5)
    model = build_denoiser(CONFIG, graph, outputs=7, seed=6).eval()
    input_ids = sample([40, 13])
    input_ids[0, 3] = CONFIG.vocab_size  # masked
    real = input_ids != 0
    expected = written_out(model, input_ids, real, graph)
    expected = expected @ model.restored.weight.double().T + model.restored.bias.double()
    assert_close(model(input_ids, real)[real].double(), expected[real], atol=5e-6, rtol=1e-5)
    pairs = torch.stack([input_ids, input_ids.flip(0)])  # two examples of two documents
    found = model(pairs, pairs != 0)
    assert found.shape == (2, 2, 40, 7)
    assert_close(found[1, 1][real[0]], model(input_ids, real)[0][real[0]], atol=1e-6, rtol=1e-5)


def test_a_denoiser_needs_an_id_for_what_is_masked():
    with pytest.raises(ValueError, match="the configuration must be 'masked'"):
        build_denoiser(dataclasses.replace(CONFIG, masked=False), nip.pattern("hypercube", 5), outputs=1, seed=0)
