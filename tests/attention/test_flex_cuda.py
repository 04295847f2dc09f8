"""FlexAttention compiled for a GPU, forward and backward; skipped without a GPU."""

import pytest
import torch

import nip
from nip.attention import flex
from nip.bench.agreement import agreements

pytestmark = [
    pytest.mark.skipif(flex.missing("cuda") is not None, reason=f"needs a GPU: {flex.missing('cuda')}"),
    pytest.mark.timeout(1200),  # each combination is compiled
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_results_and_gradients_are_those_of_the_reference(dtype):
    wrong = [str(check) for check in agreements("flex", "cuda", [dtype]) if not check.holds]
    assert not wrong


def test_rows_without_an_allowed_key_are_zero_with_finite_gradients():
    q, k, v = (torch.randn(2, 2, 200, 8, device="cuda", requires_grad=True) for _ in range(3))
    real = torch.zeros(2, 200, dtype=torch.bool, device="cuda")
    real[1, 100:] = True
    pattern = nip.pattern("local", 13, num_sliding_window_blocks=1)
    out, lse = nip.attend(q, k, v, pattern, 16, key_padding_mask=real, return_lse=True, backend="flex")
    assert (out[0] == 0).all()
    assert (out[1, :, :96] == 0).all()
    assert (lse[0] == -torch.inf).all()
    out.square().sum().backward()
    for x in (q, k, v):
        assert torch.isfinite(x.grad).all()
        assert (x.grad[0] == 0).all()


@pytest.mark.parametrize("bias_batch", [1, 2])
def test_bias_and_its_gradient(bias_batch):
    q, k, v = (torch.randn(2, 2, 300, 32, device="cuda", requires_grad=True) for _ in range(3))
    bias = torch.randn(bias_batch, 2, 300, 300, device="cuda", requires_grad=True)
    pattern, results = nip.pattern("hypercube", 19), []
    for backend in ("flex", "reference"):
        out = nip.attend(q, k, v, pattern, 16, bias=bias, backend=backend)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v, bias))))
    for found, right in zip(*results, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)


def test_auto_selects_it_and_compiles_to_one_graph():
    q, k, v = (torch.randn(2, 2, 2048, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    pattern = nip.pattern("hypercube", 128)
    choice = nip.explain(q, k, v, pattern)
    assert choice.backend == "flex"
    assert "31% of 16 × 16 tiles" in choice.reason

    def loss(q, k, v):
        return nip.attend(q * 1, k, v, pattern).float().square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    for found, right in zip(
        torch.autograd.grad(compiled(q, k, v), (q, k, v)), torch.autograd.grad(loss(q, k, v), (q, k, v)), strict=True
    ):
        torch.testing.assert_close(found, right, rtol=5e-2, atol=5e-2)


def test_what_it_leaves_to_others_is_computed_by_them():
    q = torch.randn(1, 2, 2048, 32, device="cuda", dtype=torch.float64)
    assert nip.explain(q, q, q, nip.pattern("hypercube", 128)).backend == "gather"
    assert nip.explain(q.float(), q.float(), q.float(), nip.pattern("hypercube", 128), dropout_p=0.1).backend != "flex"
