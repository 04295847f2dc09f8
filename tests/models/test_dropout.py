import pytest
import torch
from torch.testing import assert_close

from nip.models.dropout import add_dropout, draw_kept, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.3])
def test_share_and_scale(p):
    torch.manual_seed(3)
    n = 200_000
    kept, scale = draw_kept(torch.empty(n), p)
    # five standard deviations of a binomial share
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    assert scale == pytest.approx(1 / (1 - p), abs=1e-4)
    # neighbours come from the same 64 random bits: they must be independent all the same
    pairs = (kept[:-1] * kept[1:]).double().mean().item()
    assert abs(pairs - (1 - p) ** 2) < 0.005


def test_values_and_gradients_follow_the_mask():
    torch.manual_seed(1)
    x = torch.randn(7, 5, requires_grad=True)
    residual = torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(2)
    kept, scale = draw_kept(x, 0.25)
    torch.manual_seed(2)
    plain = dropout(x, 0.25, training=True)
    torch.manual_seed(2)
    added = add_dropout(residual, x, 0.25, training=True)
    expected = torch.where(kept.bool(), x * scale, 0)
    assert_close(plain, expected)
    assert_close(added, residual + expected)
    weight = torch.randn(7, 5)
    for result in (plain, added):
        (gradient,) = torch.autograd.grad((result * weight).sum(), x, retain_graph=True)
        assert_close(gradient, torch.where(kept.bool(), weight * scale, 0))
    (gradient,) = torch.autograd.grad((added * weight).sum(), residual)
    assert_close(gradient, weight)


def test_the_seed_decides_and_evaluation_draws_nothing():
    x = torch.randn(100)
    torch.manual_seed(5)
    first = dropout(x, 0.5, training=True)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x, 0.5, training=True))
    state = torch.get_rng_state()
    assert dropout(x, 0.5, training=False) is x
    assert torch.equal(add_dropout(x, x, 0.0, training=True), 2 * x)
    assert torch.equal(state, torch.get_rng_state())


def test_any_number_of_elements():
    for n in (1, 3, 4, 5, 63):
        assert draw_kept(torch.empty(n), 0.5)[0].shape == (n,)
    # a share that rounds up to one drops everything rather than dividing by zero
    assert not dropout(torch.ones(9), 1 - 1e-9, training=True).any()
