import copy
import math

import pytest
import torch
from torch import nn

from nip.training.optimizers import OPTIMIZERS, Lamb, make_optimizer

OPTIONS = {"learning_rate": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return made


def run(module, optimizer, steps=4):
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for weight in module.parameters():
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def by_hand(module, rule, steps=4):
    """The weights after steps of `rule(weight, gradient, m, v, t, decay, matrix)` in float64."""
    draw = torch.Generator().manual_seed(1)
    found = {name: weight.detach().double() for name, weight in module.named_parameters()}
    means, squares = ({name: torch.zeros_like(weight) for name, weight in found.items()} for _ in range(2))
    for t in range(1, steps + 1):
        for name, weight in found.items():
            gradient = torch.randn(weight.shape, generator=draw).double()
            matrix = weight.ndim > 1
            found[name] = rule(weight, gradient, means[name], squares[name], t, 0.1 if matrix else 0.0, matrix)
    return found


def assert_close(found, expected):
    for name, weight in expected.items():
        torch.testing.assert_close(found[name].double(), weight, rtol=2e-5, atol=1e-6, msg=name)


def adam(decoupled, corrected):
    def rule(w, g, m, v, t, decay, matrix):
        if not decoupled:
            g = g + decay * w
        m.mul_(0.8).add_(0.2 * g)
        v.mul_(0.95).add_(0.05 * g * g)
        first, second = (1 - 0.8**t, 1 - 0.95**t) if corrected else (1, 1)
        step = 0.03 * (m / first) / ((v / second).sqrt() + 1e-3)
        return w - step - (0.03 * decay * w if decoupled else 0)

    return rule


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_equals_its_definition_with_and_without_bias_correction(module, name, corrected):
    expected = by_hand(module, adam(name == "adamw", corrected))
    optimizer = make_optimizer(module, name, **OPTIONS, bias_correction=corrected)
    assert_close(run(module, optimizer), expected)
    assert [(group["lr"], group["eps"]) for group in optimizer.param_groups] == [(0.03, 1e-3)] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("coefficients", [(0.01, 10.0), (0.5, 0.7)])
def test_lamb_equals_its_definition(module, corrected, coefficients):
    def rule(w, g, m, v, t, decay, matrix):
        m.mul_(0.8).add_(0.2 * g)
        v.mul_(0.95).add_(0.05 * g * g)
        first, second = (1 - 0.8**t, 1 - 0.95**t) if corrected else (1, 1)
        update = (m / first) / ((v / second).sqrt() + 1e-3) + decay * w
        ratio = min(max(float(w.norm() / update.norm()), coefficients[0]), coefficients[1]) if matrix else 1.0
        return w - 0.03 * ratio * update

    expected = by_hand(module, rule)
    optimizer = make_optimizer(module, "lamb", **OPTIONS, bias_correction=corrected, coefficients=coefficients)
    assert_close(run(module, optimizer), expected)


def test_lamb_with_a_trust_ratio_of_one_is_adamw(module):
    other = copy.deepcopy(module)
    lamb = make_optimizer(module, "lamb", **OPTIONS, coefficients=(1.0, 1.0))
    assert_close(
        run(module, lamb), {k: w.double() for k, w in run(other, make_optimizer(other, "adamw", **OPTIONS)).items()}
    )


def test_lamb_updates_matrices_of_zeros():
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = Lamb([weight], lr=0.5)
    weight.grad = torch.full((2, 2), 3.0)
    assert optimizer.step(lambda: 7.0) == 7.0
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.5), rtol=1e-5, atol=0)


def test_lamb_of_deepspeed_scales_biases_too(module):
    """C. FusedLamb of DeepSpeed 0.5.4: every tensor has a trust ratio."""

    def rule(w, g, m, v, t, decay, matrix):
        m.mul_(0.8).add_(0.2 * g)
        v.mul_(0.95).add_(0.05 * g * g)
        update = m / (v.sqrt() + 1e-3) + decay * w
        return w - 0.03 * min(max(float(w.norm() / update.norm()), 0.01), 0.3) * update

    expected = by_hand(module, rule)
    optimizer = make_optimizer(module, "lamb-deepspeed", **OPTIONS, bias_correction=False, coefficients=(0.01, 0.3))
    assert_close(run(module, optimizer), expected)


def test_absolute_adafactor_equals_its_definition():
    """N. Shazeer and M. Stern, arXiv 1804.04235, algorithm 4, with absolute steps and a clipping threshold of 1."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    nn.init.normal_(layer.weight, std=0.02)
    optimizer = make_optimizer(layer, "adafactor-absolute", learning_rate=1e-2, weight_decay=0.0)
    weight, rows, columns = layer.weight.detach().double().clone(), torch.zeros(4), torch.zeros(6)
    for step in range(1, 51):
        gradient = torch.randn(4, 6)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        g, beta = gradient.double(), 1 - step**-0.8
        rows = beta * rows + (1 - beta) * (g**2 + 1e-30).mean(1)
        columns = beta * columns + (1 - beta) * (g**2 + 1e-30).mean(0)
        update = g / (rows[:, None] * columns / rows.mean()).sqrt()
        weight -= 1e-2 * update / max(1.0, float(update.square().mean().sqrt()))
    torch.testing.assert_close(layer.weight.detach(), weight.float(), rtol=1e-4, atol=1e-5)


def test_absolute_steps_do_not_shrink_with_the_weights():
    """A matrix of small weights moves as far as the learning rate says; torch's steps are multiples of its size."""
    moved = {}
    for name in ("adafactor", "adafactor-absolute"):
        torch.manual_seed(0)
        layer = nn.Linear(64, 64, bias=False)
        nn.init.normal_(layer.weight, std=0.02)
        optimizer, before = (
            make_optimizer(layer, name, learning_rate=5e-3, weight_decay=0.0),
            layer.weight.detach().clone(),
        )
        for _ in range(50):
            layer.weight.grad = torch.ones(64, 64)
            optimizer.step()
        moved[name] = float((layer.weight.detach() - before).abs().mean())
    assert moved["adafactor-absolute"] == pytest.approx(50 * 5e-3, rel=1e-3)
    assert moved["adafactor"] < moved["adafactor-absolute"] / 20


def test_adafactor_is_torchs_on_the_same_groups(module):
    other = copy.deepcopy(module)
    groups = [
        {"params": [weight for weight in other.parameters() if weight.ndim > 1], "weight_decay": 0.1},
        {"params": [weight for weight in other.parameters() if weight.ndim == 1]},
    ]
    expected = run(other, torch.optim.Adafactor(groups, lr=0.03))
    found = run(module, make_optimizer(module, "adafactor", **OPTIONS))
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("corrected", [True, False])
def test_restored_states_continue_bit_for_bit(module, name, corrected):
    other = copy.deepcopy(module)

    def new(module):
        return make_optimizer(module, name, **OPTIONS, bias_correction=corrected)

    full = run(module, new(module), steps=6)
    draw = torch.Generator().manual_seed(1)
    optimizer = new(other)
    for step in range(6):
        for weight in other.parameters():
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = new(other)
            optimizer.load_state_dict(state)
    assert all(torch.equal(weight, full[key]) for key, weight in other.named_parameters())


def test_every_weight_is_in_one_group_and_frozen_ones_in_none(module):
    module[0].weight.requires_grad_(False)
    module.tied = nn.Linear(4, 3)
    module.tied.weight = module[1].weight
    groups = make_optimizer(module, "adamw", **OPTIONS).param_groups
    held = [id(weight) for group in groups for weight in group["params"]]
    wanted = {id(weight) for weight in module.parameters() if weight.requires_grad}
    assert len(held) == len(set(held)) and set(held) == wanted
    assert [weight.ndim for weight in groups[0]["params"]] == [2]


def test_bad_optimizers(module):
    with pytest.raises(ValueError, match=r"no optimizer 'sgd'\. The optimizers are adam, adamw, lamb, lamb-deepspeed"):
        make_optimizer(module, "sgd", **OPTIONS)
    with pytest.raises(ValueError, match=r"from 0 to the largest, 0\.5\. Got 1\.0"):
        make_optimizer(module, "lamb", **OPTIONS, coefficients=(1.0, 0.5))
    assert math.isclose(make_optimizer(module, "lamb", **OPTIONS).param_groups[0]["coefficients"][1], 10.0)
