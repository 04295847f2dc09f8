"""The encoder of the Long Range Arena runs against one written out in double precision, and its denoiser."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import nip
from nip.graphs import lift, to_mask
from nip.models import Classifier, EncoderConfig, build_classifier, build_denoiser

CONFIG = EncoderConfig(vocab_size=12, n_classes=3, length=40, positions=64, block_size=8)
MODERN = EncoderConfig(
    vocab_size=12, n_classes=3, length=40, positions=40, block_size=8, repeats=1, head_dim=8, rotary=True, gated=True,
    masked=True,
)  # fmt: skip


def written_out(model, input_ids, mask_of_graph, real=None):
    """The encoder again, from torch's own pieces and a dense mask."""
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    config = model.config
    length = input_ids.shape[1]
    real = input_ids != 0 if real is None else real
    x = w["tokens.weight"][input_ids] + w["positions.weight"][:length]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x, name):
        q, k, v = linear(x, f"{name}.qkv").unflatten(-1, (3, config.heads, config.head_dim)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(config.head_dim)
        allowed = mask_of_graph[:length, :length] & real[:, None, None, :]
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0.0)
        return linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attention_out")

    for name in ("layers.0", "layers.1", "layers.0", "layers.1"):
        x = x + attention(norm(x, f"{name}.attention_norm"), name)
        inner = linear(norm(x, f"{name}.inner_norm"), f"{name}.up")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = x + linear(inner, f"{name}.down")
    x = norm(x, "norm")
    if config.per_token:
        return linear(linear(x, "hidden").relu(), "output")
    summed = (x * real[..., None]).sum(1)
    pooled = summed / (config.length if config.mean_over_padding else real.sum(1, keepdim=True))
    return linear(linear(pooled, "hidden").relu(), "output")


def sample(lengths, width=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, CONFIG.vocab_size, (len(lengths), width), generator=generator)
    return input_ids.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], 0)


@pytest.mark.parametrize("over_padding", [False, True])
@pytest.mark.parametrize("name", ["softmax", "hypercube", "bigbird"])
def test_equals_the_written_out_computation(name, over_padding):
    config = dataclasses.replace(CONFIG, mean_over_padding=over_padding)
    pattern = nip.pattern(name, 5)
    model = build_classifier(config, pattern, seed=1).eval()
    input_ids = sample([40, 17, 3], 40)
    dense = torch.from_numpy(to_mask(lift(pattern, 8)))
    # fp32 against fp64 over four layers
    assert_close(model(input_ids).double(), written_out(model, input_ids, dense), atol=2e-6, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    name=st.sampled_from(["softmax", "hypercube", "random", "longformer"]),
    over_padding=st.booleans(),
)
def test_padding_may_be_left_off(lengths, name, over_padding):
    config = dataclasses.replace(CONFIG, mean_over_padding=over_padding)
    model = build_classifier(config, nip.pattern(name, 5), seed=2).eval()
    width = max(lengths)
    trimmed, full = sample(lengths, width), torch.zeros(len(lengths), 40, dtype=torch.int64)
    full[:, :width] = trimmed
    gradients = []
    scores = []
    for input_ids in (trimmed, full):
        model.zero_grad()
        scores.append(model(input_ids))
        scores[-1].square().sum().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert_close(*scores, atol=1e-6, rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_means_differ_by_the_share_of_real_tokens():
    clean = build_classifier(CONFIG, nip.pattern("hypercube", 5), seed=3).eval()
    padded = Classifier(dataclasses.replace(CONFIG, mean_over_padding=True), nip.pattern("hypercube", 5)).eval()
    padded.load_state_dict(clean.state_dict())
    input_ids = sample([10], 40)
    mask = input_ids != 0
    assert_close(padded.encode(input_ids, mask), clean.encode(input_ids, mask) * 10 / 40)


def test_number_of_weights_by_hand():
    config = EncoderConfig(vocab_size=32, n_classes=10, length=2048, positions=2048)
    model = build_classifier(config, nip.pattern("hypercube", 128), seed=0)
    norm = 64 + 64
    layer = norm + (64 * 384 + 384) + (128 * 64 + 64) + norm + (64 * 128 + 128) + (128 * 64 + 64)
    head = (64 * 128 + 128) + (128 * 10 + 10)
    # two layers, however often they are applied: the second time has the same weights
    assert sum(weight.numel() for weight in model.parameters()) == 32 * 64 + 2048 * 64 + 2 * layer + norm + head


def test_first_weights_depend_on_the_seed_alone():
    pattern = nip.pattern("hypercube", 5)
    state = torch.get_rng_state()
    first = build_classifier(CONFIG, pattern, seed=7)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(13)
    again, other = build_classifier(CONFIG, pattern, seed=7), build_classifier(CONFIG, pattern, seed=8)
    for (name, one), two, three in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        if "norm" not in name:
            assert not torch.equal(one, three), name
    # a model with one layer more has the same weights where both have them
    larger = build_classifier(dataclasses.replace(CONFIG, layers=3), pattern, seed=7)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, larger.get_parameter(name)), name


def test_an_id_of_parts_is_embedded_as_their_sum_and_a_masked_one_by_itself():
    parts = ((0,), (1,), (2, 4), (3, 4, 5))
    config = dataclasses.replace(CONFIG, vocab_size=4, parts=parts, masked=True, token_std=0.5)
    tokens = build_classifier(config, nip.pattern("hypercube", 5), seed=0).tokens
    table = tokens.weight.detach()
    assert table.shape == (7, 64) and table.std().item() == pytest.approx(0.5, rel=0.1)
    found = tokens(torch.tensor([[3, 0], [2, 4]]))
    expected = torch.stack([table[3] + table[4] + table[5], table[0], table[2] + table[4], table[6]])
    assert_close(found.flatten(0, 1), expected)
    found[0, 0].sum().backward()
    assert tokens.weight.grad.any(1).tolist() == [False, False, False, True, True, True, False]
    with pytest.raises(
        ValueError, match="'parts' parameter of EncoderConfig must have one entry per token id, 12 in all"
    ):
        dataclasses.replace(CONFIG, parts=parts)


def test_a_head_without_a_hidden_layer_is_one_linear_map():
    model = build_classifier(dataclasses.replace(CONFIG, head_width=None), nip.pattern("hypercube", 5), seed=0).eval()
    input_ids = sample([40, 20], 40)
    assert_close(model(input_ids), model.output(model.encode(input_ids, input_ids != 0)))
    assert model.output.weight.shape == (3, 64) and not any("hidden" in name for name in model.state_dict())


def test_first_weights_are_distributed_as_the_recipe_says():
    config = EncoderConfig(vocab_size=1000, n_classes=10, length=16, positions=1024)
    model = build_classifier(config, nip.pattern("softmax", 1), seed=0)
    assert model.positions.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()


def test_dropout_acts_in_training_only():
    model = build_classifier(CONFIG, nip.pattern("hypercube", 5), seed=0)
    input_ids = sample([40, 20], 40)
    assert torch.equal(model.eval()(input_ids), model(input_ids))
    torch.manual_seed(0)
    first = model.train()(input_ids)
    torch.manual_seed(0)
    assert torch.equal(first, model(input_ids))
    assert not torch.equal(first, model(input_ids))


def test_attention_dropout_is_passed_on_only_where_asked_for(monkeypatch):
    seen = []
    attend = nip.attend
    monkeypatch.setattr(
        "nip.models.lra.attend", lambda *args, **options: seen.append(options["dropout_p"]) or attend(*args, **options)
    )
    for share in (0.0, 0.25):
        model = build_classifier(
            dataclasses.replace(CONFIG, attention_dropout=share), nip.pattern("hypercube", 5), seed=0
        )
        model.train()(sample([9], 16))
        model.eval()(sample([9], 16))
    assert seen == [0.0] * 8 + [0.25] * 4 + [0.0] * 4


def test_pairs_of_documents():
    config = dataclasses.replace(CONFIG, pair=True)
    model = build_classifier(config, nip.pattern("hypercube", 5), seed=4).eval()
    one, two = sample([40, 9], 40), sample([23, 31], 40, seed=1)
    x, y = model.encode(one, one != 0), model.encode(two, two != 0)
    expected = model.output(model.hidden(torch.cat([x, y, x * y, x - y], -1)).relu())
    assert_close(model(torch.stack([one, two], 1)), expected)
    for wrong in (one, torch.stack([one, two, one], 1)):
        with pytest.raises(ValueError, match=r"takes token ids of shape \(batch, 2, length\), a pair of documents"):
            model(wrong)
    with pytest.raises(ValueError, match=r"takes token ids of shape \(batch, length\)\. Got \(2, 2, 40\)"):
        build_classifier(CONFIG, nip.pattern("hypercube", 5), seed=4)(torch.stack([one, two], 1))


def test_every_token_is_classified_where_that_is_asked_for():
    config = dataclasses.replace(CONFIG, per_token=True)
    pattern = nip.pattern("hypercube", 5)
    model = build_classifier(config, pattern, seed=4).eval()
    input_ids = sample([40, 17], 40)
    expected = written_out(model, input_ids, torch.from_numpy(to_mask(lift(pattern, 8))))
    assert_close(model(input_ids).double(), expected, atol=2e-6, rtol=1e-5)
    assert expected.shape == (2, 40, 3)


def test_a_mask_of_its_own_counts_tokens_with_the_id_of_padding():
    pattern = nip.pattern("hypercube", 5)
    model = build_classifier(CONFIG, pattern, seed=4).eval()
    input_ids = sample([40, 40], 40)
    input_ids[:, ::3] = 0
    real = torch.arange(40).expand(2, 40) < torch.tensor([[40], [22]])
    dense = torch.from_numpy(to_mask(lift(pattern, 8)))
    expected = written_out(model, input_ids, dense, real)
    assert_close(model(input_ids, real).double(), expected, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(model(input_ids, real), model(input_ids), atol=1e-3)


def test_a_document_of_padding_alone_is_finite():
    model = build_classifier(CONFIG, nip.pattern("hypercube", 5), seed=0)
    scores = model(torch.zeros(2, 40, dtype=torch.int64))
    scores.sum().backward()
    assert scores.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_bad_sizes():
    with pytest.raises(ValueError, match="41 tokens exceeds the model's maximum length of 40"):
        build_classifier(CONFIG, nip.pattern("hypercube", 5), seed=0)(torch.ones(1, 41, dtype=torch.int64))
    with pytest.raises(ValueError, match="65 tokens exceeds the model's maximum length of 40"):
        build_classifier(CONFIG, nip.pattern("hypercube", 5), seed=0)(torch.ones(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match="65 tokens is longer than the position table of 64 rows"):
        dataclasses.replace(CONFIG, length=65)
    with pytest.raises(ValueError, match="'pair' and 'per_token' of EncoderConfig exclude each other"):
        dataclasses.replace(CONFIG, pair=True, per_token=True)
    with pytest.raises(ValueError, match="pattern must have 5 blocks"):
        build_classifier(CONFIG, nip.pattern("hypercube", 6), seed=0)
    with pytest.raises(ValueError, match="'width' parameter of EncoderConfig must be an integer of at least 1"):
        dataclasses.replace(CONFIG, width=0)
    with pytest.raises(ValueError, match=r"'dropout' parameter of EncoderConfig must be in \[0, 1\)"):
        dataclasses.replace(CONFIG, dropout=1)


def modern_written_out(model, input_ids, real, graph, columns=None):
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


@pytest.mark.parametrize("columns", [None, 8])
@pytest.mark.parametrize("name", ["softmax", "hypercube", "bigbird"])
def test_the_modern_encoder_equals_the_written_out_computation(name, columns):
    graph = nip.pattern(name, 5)
    model = build_classifier(dataclasses.replace(MODERN, columns=columns), graph, seed=1).eval()
    input_ids = sample([40, 17, 3])
    real = input_ids != 0
    features = modern_written_out(model, input_ids, real, graph, columns)
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
def test_padding_of_the_modern_encoder_may_be_left_off(lengths, name, columns):
    model = build_classifier(dataclasses.replace(MODERN, columns=columns), nip.pattern(name, 5), seed=2).eval()
    trimmed, full = sample(lengths, max(lengths)), torch.zeros(len(lengths), 40, dtype=torch.int64)
    full[:, : max(lengths)] = trimmed
    assert_close(model(trimmed), model(full), atol=1e-6, rtol=1e-5)


def test_a_sequence_may_be_moved():
    # rotary scores depend on position differences only, and the complete graph does not depend on positions
    model = build_classifier(MODERN, nip.pattern("softmax", 5), seed=3).eval()
    at_the_start, later = torch.zeros(1, 40, dtype=torch.int64), torch.zeros(1, 40, dtype=torch.int64)
    at_the_start[0, :9], later[0, 26:35] = sample([9], 9)[0], sample([9], 9)[0]
    assert_close(model(later), model(at_the_start), atol=1e-6, rtol=1e-5)
    later[0, [26, 27]] = later[0, [27, 26]]
    assert (model(later) - model(at_the_start)).abs().max() > 1e-4  # but the order counts


def test_there_is_no_position_table_and_one_more_token():
    model = build_classifier(dataclasses.replace(MODERN, positions=1), nip.pattern("hypercube", 5), seed=0)
    weights = dict(model.named_parameters())
    assert "positions.weight" not in weights
    assert weights["tokens.weight"].shape == (13, 64)
    assert weights["layers.0.up.weight"].shape == (256, 64) and weights["layers.0.down.weight"].shape == (64, 128)
    plain = dataclasses.replace(MODERN, masked=False)
    assert build_classifier(plain, nip.pattern("hypercube", 5), seed=0).tokens.weight.shape == (12, 64)


def test_heads_that_cannot_be_turned_are_refused_at_once():
    with pytest.raises(ValueError, match="must be a multiple of 4 for an image"):
        dataclasses.replace(MODERN, columns=8, head_dim=6)
    with pytest.raises(ValueError, match="must be a multiple of 2 for a sequence"):
        dataclasses.replace(MODERN, head_dim=7)


@pytest.mark.parametrize("modern", [True, False])
def test_gradient_checkpointing_changes_no_number(modern):
    config = dataclasses.replace(
        MODERN, dropout=0.3, attention_dropout=0.2, repeats=2, rotary=modern, gated=modern, masked=modern
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
        config = dataclasses.replace(MODERN, layers=6, gradient_checkpointing=checkpointing)
        model = build_classifier(config, nip.pattern("hypercube", 5), seed=4)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(sample([40] * 4))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_a_denoiser_shares_the_classifiers_first_weights():
    graph = nip.pattern("hypercube", 5)
    denoiser, classifier = (
        build_denoiser(MODERN, graph, outputs=12, seed=6).state_dict(),
        build_classifier(MODERN, graph, seed=6).state_dict(),
    )
    assert set(denoiser) - set(classifier) == {"restored.weight", "restored.bias"}
    assert set(classifier) - set(denoiser) == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}
    for name in set(denoiser) & set(classifier):
        assert torch.equal(denoiser[name], classifier[name]), name


def test_a_denoiser_predicts_every_token():
    graph = nip.pattern("bigbird", 5)
    model = build_denoiser(MODERN, graph, outputs=7, seed=6).eval()
    input_ids = sample([40, 13])
    input_ids[0, 3] = MODERN.vocab_size  # masked
    real = input_ids != 0
    expected = modern_written_out(model, input_ids, real, graph)
    expected = expected @ model.restored.weight.double().T + model.restored.bias.double()
    assert_close(model(input_ids, real)[real].double(), expected[real], atol=5e-6, rtol=1e-5)
    pairs = torch.stack([input_ids, input_ids.flip(0)])  # two examples of two documents
    found = model(pairs, pairs != 0)
    assert found.shape == (2, 2, 40, 7)
    assert_close(found[1, 1][real[0]], model(input_ids, real)[0][real[0]], atol=1e-6, rtol=1e-5)


def test_a_denoiser_needs_a_mask_token():
    with pytest.raises(ValueError, match="set the 'masked' parameter of EncoderConfig"):
        build_denoiser(dataclasses.replace(MODERN, masked=False), nip.pattern("hypercube", 5), outputs=1, seed=0)


@pytest.mark.parametrize("mode", ["train", "frozen", "no_grad", "inference_mode"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_compiled_in_every_grad_mode_at_every_length(mode, training):
    config = EncoderConfig(50, 3, 100, 128, layers=1, repeats=1, attention_dropout=0.2)
    model = build_classifier(config, nip.pattern("hypercube", 7), seed=0).train(training)
    model.requires_grad_(mode != "frozen")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    grad_mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, torch.enable_grad)
    for length in (100, 50):  # the second attends over a corner of the graph
        ids = torch.randint(1, 50, (2, length), generator=torch.Generator().manual_seed(0))
        with grad_mode():
            torch.manual_seed(1)
            found = compiled(ids)
            again = compiled(ids)
            torch.manual_seed(1)
            expected = model(ids)
        torch.testing.assert_close(found, expected)
        assert torch.equal(found, again) != training  # every call draws anew
        if mode == "train":
            weights = [model.tokens.weight, model.layers[0].qkv.weight]
            for x, y in zip(*(torch.autograd.grad(z.sum(), weights) for z in (found, expected)), strict=True):
                torch.testing.assert_close(x, y)


@pytest.mark.parametrize("config", [CONFIG, MODERN], ids=["plain", "rotary"])
def test_another_default_device_changes_nothing(config):
    model = build_classifier(config, nip.pattern("hypercube", 5), seed=0)
    ids = torch.randint(0, 12, (2, 40), generator=torch.Generator().manual_seed(0))

    def run():
        torch.manual_seed(0)
        out = model(ids)
        return out, *torch.autograd.grad(out.square().sum(), [model.tokens.weight, model.layers[0].qkv.weight])

    expected = run()
    with torch.device("meta"):  # whose tensors have no values
        found = run()
        without_weights = build_classifier(config, nip.pattern("hypercube", 5), seed=0)
    assert all(x.device.type == "cpu" and torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert all(weight.is_meta for weight in [*without_weights.parameters(), *without_weights.buffers()])
