"""Dropout of every backend that supports it: which pairs, how often, and the same ones in both passes."""

import pytest
import torch

import attention_cases as cases
import nip

pytestmark = pytest.mark.usefixtures("uncompiled_flex")
P = 0.25


@pytest.fixture
def call(backend):
    """One-hot values of head_dim = tokens: the result is the probabilities themselves."""
    call = cases.simple(96, "bigbird", head_dim=96, heads=4, kv_heads=2, dropout_p=P)
    call.keywords["key_padding_mask"] = torch.arange(96) < torch.tensor([[96], [70]])
    if call.refusal(backend):
        for x in call.inputs:
            x.requires_grad_(False)
    if call.refusal(backend):
        pytest.skip(call.refusal(backend))
    return call


def attend(call, backend, seed=0, **changes):
    torch.manual_seed(seed)
    given = {"q": call.q, "k": call.k, "v": call.v, "pattern": call.pattern, **call.keywords, **changes}
    return nip.attend(**given, block_size=call.block_size, backend=backend)


def kept(call, backend, seed=0):
    """(batch, heads, tokens, tokens): 1 / (1 − p) or 0 for each probability."""
    one_hot = torch.eye(96, dtype=call.v.dtype).expand(call.v.shape)
    dropped = attend(call, backend, seed, v=one_hot).detach()
    whole = attend(call, backend, seed, v=one_hot, dropout_p=0.0).detach()
    survived = dropped != 0
    torch.testing.assert_close(dropped[survived], whole[survived] / (1 - P), rtol=1e-5, atol=1e-6)
    return survived.double() / (1 - P)


def test_the_result_and_all_gradients_are_those_of_the_pairs_that_were_kept(backend, call):
    keep = kept(call, backend)
    out = attend(call, backend)
    expected, _, copies, largest = call.expected(keep)
    limit = cases.tolerance(torch.float32, largest)
    cases.close("out", out, expected, limit)
    if out.requires_grad:
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((out * weights).sum(), call.inputs)
        for name, x, y in zip("qkv", gradients, torch.autograd.grad((expected * weights).sum(), copies), strict=True):
            cases.close(f"d{name}", x, y, limit)


def test_that_share_of_the_allowed_pairs_is_dropped_in_every_row_and_head(backend, call):
    dropped = kept(call, backend) == 0
    pairs = call.allowed()[:, None].expand(dropped.shape)

    def far(dropped, pairs):  # in standard deviations of the binomial distribution
        count = pairs.sum(-1).double().clamp(min=1)
        return ((dropped & pairs).sum(-1) - P * count).abs() / (P * (1 - P) * count).sqrt()

    assert far(dropped.flatten(), pairs.flatten()) < 5
    assert (far(dropped.flatten(2), pairs.flatten(2)) < 5).all()  # each head of each sequence
    assert (far(dropped, pairs) < 6).all()  # each query
    assert (far(dropped.mT, pairs.mT) < 6).all()  # each key


def test_heads_sequences_and_calls_drop_other_pairs(backend, call):
    one = (kept(call, backend) == 0)[:, :, :, :70]
    other = (kept(call, backend, seed=1) == 0)[:, :, :, :70]
    pairs = call.allowed()[0, :, :70] & call.allowed()[1, :, :70]
    draws = [*one.flatten(0, 1), *other.flatten(0, 1)]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            both = (x & y)[pairs].double().mean().item()  # independent draws coincide with probability p²
            assert abs(both - P**2) < 5 * (P**2 * (1 - P**2) / pairs.sum().item()) ** 0.5


def test_torch_manual_seed_decides_for_any_number_of_threads(backend, call):
    first = attend(call, backend, seed=7)
    torch.manual_seed(7)
    again = [attend(call, backend, seed=7)]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            again.append(attend(call, backend, seed=7))
    finally:
        torch.set_num_threads(before)
    for x in again:
        torch.testing.assert_close(x, first, rtol=1e-5, atol=1e-5)
        if backend == "native":
            assert torch.equal(x, first)
    assert not torch.equal(attend(call, backend, seed=8), first)
    torch.manual_seed(7)
    nip.attend(call.q, call.k, call.v, call.pattern, 16, **call.keywords, backend=backend)
    following = nip.attend(call.q, call.k, call.v, call.pattern, 16, **call.keywords, backend=backend)
    assert not torch.equal(following, first)


def test_the_mean_over_many_seeds_is_attention_without_dropout(backend, call):
    with torch.no_grad():
        whole = attend(call, backend, dropout_p=0.0)
        draws = torch.stack([attend(call, backend, seed) for seed in range(64)])
    far = (draws.mean(0) - whole).abs() / (draws.std(0) / 8 + 1e-6)
    assert far.mean() < 1  # of a normal distribution: 0.8
    assert far.max() < 8


def test_is_linear_in_the_values(backend, call):
    other = torch.randn(call.v.shape, generator=torch.Generator().manual_seed(5))
    both = attend(call, backend, v=call.v + other)
    torch.testing.assert_close(both, attend(call, backend) + attend(call, backend, v=other), rtol=1e-4, atol=1e-5)


def test_checkpointing_draws_the_same_again(backend, call):
    from torch.utils.checkpoint import checkpoint

    if not call.q.requires_grad:
        pytest.skip(f"{backend} has no gradients here")

    def loss(q, k, v):
        return nip.attend(q, k, v, call.pattern, 16, **call.keywords, backend=backend).square().sum()

    def gradients(run):
        torch.manual_seed(3)
        return torch.autograd.grad(run(*call.inputs), call.inputs)

    plain = gradients(loss)
    for reentrant in (False, True):
        leaves = [x.detach().requires_grad_() for x in call.inputs]
        torch.manual_seed(3)
        checkpoint(loss, *leaves, use_reentrant=reentrant).backward()
        assert all(torch.equal(x.grad, y) for x, y in zip(leaves, plain, strict=True))
