"""Guarantees of the compiled kernel beyond the test suite of all backends."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import attention_cases as cases
import nip
from nip.attention import native
from nip.attention.layout import block_layout

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))


def tensors(batch=2, heads=4, kv_heads=2, tokens=200, head_dim=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, h, tokens, head_dim, generator=generator).to(dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    ]


def results(q, k, v, pattern, block_size=16, backend="native", **options):
    """Result, log-sum-exp and the three gradients, which depend on both."""
    out, lse = nip.attend(q, k, v, pattern, block_size, return_lse=True, backend=backend, **options)
    loss = (out * out.detach().cos()).sum() + lse[lse > -torch.inf].sin().sum()
    return [out, lse, *torch.autograd.grad(loss, (q, k, v))]


def agree(actual, expected, tolerance):
    for name, x, y in zip(["out", "lse", "dq", "dk", "dv"], actual, expected, strict=True):
        largest = max(1.0, y[y.isfinite()].abs().max().item())
        limits = {"rtol": tolerance, "atol": tolerance * largest}
        torch.testing.assert_close(x.float(), y.float(), **limits, msg=lambda m, n=name: f"{n}: {m}")


SHAPES = [
    # batch, heads, kv_heads, tokens, head_dim, block, pattern, causal
    (1, 1, 1, 3000, 16, 16, "global", False),  # long rows and columns are split into parts
    (1, 2, 1, 2500, 16, 1, "longformer", True),
    (3, 4, 2, 333, 32, 16, "hypercube", False),
    (1, 2, 2, 700, 64, 48, "bigbird", True),
    (1, 1, 1, 600, 128, 128, "softmax", True),
    (2, 3, 3, 100, 40, 33, "longformer", False),
    (1, 2, 1, 513, 8, 512, "softmax", False),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference_at_shapes_that_take_every_path(shape):
    batch, heads, kv_heads, tokens, head_dim, block, name, causal = shape
    pattern = nip.pattern(name, -(-tokens // block))
    real = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(1)) < 0.8
    for dtype, mask, tolerance in (
        (torch.float32, None, 3e-5),
        (torch.float32, real, 3e-5),
        (torch.bfloat16, real, cases.tolerance(torch.bfloat16)),
    ):
        given = tensors(batch, heads, kv_heads, tokens, head_dim, dtype)
        options = {"causal": causal, "key_padding_mask": mask}
        exact = (x.detach().double().requires_grad_() for x in given)
        expected = results(*exact, pattern, block, "reference", **options)
        agree(results(*given, pattern, block, **options), expected, tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(shape):
    batch, heads, kv_heads, tokens, head_dim, block, name, causal = shape
    pattern = nip.pattern(name, -(-tokens // block))
    before = torch.get_num_threads()
    for dtype in (torch.float32, torch.bfloat16):
        given = tensors(batch, heads, kv_heads, tokens, head_dim, dtype)
        try:
            found = []
            for threads in (
                1,
                2,
                4,
                7,
            ):  # few: a thread computes a full head; many: rows and columns are distributed
                torch.set_num_threads(threads)
                torch.manual_seed(0)
                found.append(results(*given, pattern, block, causal=causal, dropout_p=0.2))
        finally:
            torch.set_num_threads(before)
        for other in found[1:]:
            assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_a_global_row_is_cut_in_parts():
    # Otherwise the first shape would not split its rows: 188 blocks are more than a part of 2,048 tokens.
    degrees = np.diff(block_layout(nip.pattern("global", 188), 16, 3000).indptr)
    assert degrees.max() * 16 > 2048
    assert degrees.max() > 4 * degrees.mean()


@pytest.mark.parametrize("isa", [isa for isa in native.instruction_sets() if isa != native.instruction_set()])
def test_every_other_instruction_set_of_this_machine(isa):
    code = (
        "import torch, test_native as t; from nip.attention import native\n"
        f"assert native._library()[0] == {isa!r}\n"
        "for shape in t.SHAPES: t.test_equals_the_reference_at_shapes_that_take_every_path(shape)\n"
        "for shape in t.SHAPES: t.test_bits_do_not_depend_on_the_number_of_threads(shape)\n"
    )
    run(code, NIP_NATIVE_ISA=isa)


def run(code, **environment):
    from pathlib import Path

    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_the_library_attention_falls_back_with_a_reason():
    out = run(
        "import torch, nip\n"
        "q = torch.randn(1, 1, 2048, 16)\n"
        "print(nip.explain(q, q, q, nip.pattern('hypercube', 128)).backend)\n"
        "assert nip.attend(q, q, q, nip.pattern('hypercube', 128)).isfinite().all()\n"
        "print(next(b for b in nip.backends() if b.name == 'native'))\n",
        NIP_NATIVE_ISA="none",
    )
    first, second = out.splitlines()
    assert first == "gather"
    assert "available=False" in second
    assert "NIP_NATIVE_ISA is 'none'" in second


def test_without_a_build_the_error_names_the_command(monkeypatch):
    monkeypatch.setattr(native, "_path", lambda isa: None)
    native._library.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"'native' is not available: it was not compiled.*make env.*g\+\+"):
            nip.attend(*tensors(), nip.pattern("hypercube", 13), backend="native")
    finally:
        native._library.cache_clear()


def test_strided_inputs_and_gradients_are_read_without_copies():
    packed = torch.randn(2, 50, 3, 4, 32, requires_grad=True)
    pattern = nip.pattern("hypercube", 4)

    def gradient(contiguous):
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind()
        if contiguous:
            q, k, v = (x.contiguous() for x in (q, k, v))
        out = nip.attend(q, k, v, pattern, backend="native").transpose(1, 2)
        weights = torch.arange(out.numel(), dtype=torch.float32).view(out.shape).sin()
        return out, *torch.autograd.grad((out * weights).sum(), packed)

    for x, y in zip(gradient(False), gradient(True), strict=True):
        assert torch.equal(x, y)
