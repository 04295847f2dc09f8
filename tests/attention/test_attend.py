"""Every backend against the formula of attention in float64: results, log-sum-exp and every gradient.

What a backend refuses is asked of it, and it must then refuse in the same words when called.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attention_cases as cases
import nip
from nip.attention import BACKENDS, native
from nip.graphs import Pattern, names_at

pytestmark = [
    pytest.mark.usefixtures("uncompiled_flex"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
]
quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def equals_the_formula(backend, data):
    dtypes = [x for x in cases.DTYPES if cases.takes(backend, x, gradients=False)]
    call = data.draw(cases.calls(dtypes, bias=cases.takes(backend, dtypes[0], gradients=False, bias=BIAS)))
    cases.check(call, backend, return_lse=data.draw(st.booleans()))


BIAS = torch.zeros(1, 2, 8, 8)


@settings(max_examples=50, **quiet)
@given(data=st.data())
def test_equals_the_formula_for_every_input(backend, data):
    equals_the_formula(backend, data)


@pytest.mark.slow
@settings(max_examples=1000, **quiet)
@given(data=st.data())
def test_equals_the_formula_for_a_thousand_inputs(backend, data):
    equals_the_formula(backend, data)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_refuses_in_words_what_it_leaves_to_others(backend, dtype, bias):
    for lse in (False, True):
        more = {"bias": torch.zeros(1, 2, 100, 100, dtype=dtype, requires_grad=True)} if bias else {}
        cases.check(cases.simple(dtype=dtype, **more), backend, return_lse=lse)  # or else equals the formula


@pytest.mark.parametrize(("blocks", "name"), [(n, name) for n in (14, 30) for name in names_at(n)])
def test_equals_the_formula_for_every_pattern_at_length(backend, name, blocks):
    tokens = 16 * blocks - 8
    call = cases.simple(tokens, name, kv_heads=1, head_dim=8)
    lengths = torch.tensor([[tokens], [tokens // 2]])
    call.keywords["key_padding_mask"] = torch.arange(tokens) < lengths
    cases.check(call, backend)


LARGE = [
    (1111, "hypercube", 128, 64),
    *(
        pytest.param(*sizes, marks=pytest.mark.slow)
        for sizes in (
            (2304, "global", 16, 16),  # rows that are much longer than the others
            (5000, "hypercube", 16, 32),
            (4999, "bigbird", 64, 16),
            (4097, "softmax", 128, 8),
            (5000, "longformer", 8, 16),
        )
    ),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("tokens", "name", "block_size", "head_dim"), LARGE)
def test_equals_the_formula_at_thousands_of_tokens(backend, tokens, name, block_size, head_dim, causal):
    cases.check(cases.simple(tokens, name, block_size, 1, 2, 1, head_dim, causal=causal), backend)


@pytest.mark.parametrize("extra", ["plain", "causal", "padding", "segments", "bias", "lse", "dropout"])
def test_gradients_agree_with_finite_differences(backend, extra):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 5, 2, dtype=torch.float64, generator=generator, requires_grad=True) for h in (2, 1, 1))
    bias = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    keywords = {
        "causal": {"causal": True},
        "padding": {"key_padding_mask": torch.tensor([[1, 0, 1, 1, 0], [0] * 5], dtype=torch.bool)},
        "segments": {"segment_ids": torch.tensor([[0, 0, 0, 1, 1], [0, 1, 0, 2, 0]])},
        "lse": {"return_lse": True},
        "dropout": {"dropout_p": 0.4},
        "bias": {"bias": bias},
    }.get(extra, {})
    call = cases.Call(q, k, v, nip.pattern("hypercube", 3), 2, keywords)
    if call.refusal(backend):
        pytest.skip(call.refusal(backend))

    def function(q, k, v, bias=None):
        torch.manual_seed(3)  # the same draws in every call
        return nip.attend(q, k, v, call.pattern, 2, backend=backend, **{**keywords, "bias": bias})

    assert torch.autograd.gradcheck(function, (q, k, v, bias) if extra == "bias" else (q, k, v), atol=1e-7)


def backward(call, backend, out):
    """Gradients of the sum of squares, if the backend has any."""
    return torch.autograd.grad(out.square().sum(), call.inputs) if out.requires_grad else []


def without_gradients_if_it_must(call, backend, **more):
    if call.refusal(backend, **more):
        for x in call.inputs:
            x.requires_grad_(False)
    if (refusal := call.refusal(backend, **more)) is not None:
        pytest.skip(refusal)
    return call


def test_rows_without_an_allowed_key_are_zero_with_finite_gradients(backend):
    real = torch.ones(2, 40, dtype=torch.bool)
    real[0] = False  # a sequence of padding only
    real[1, :16] = False  # the only block that the first block attends to
    call = cases.simple(40, key_padding_mask=real)
    call.pattern = Pattern.from_edges(3, [1, 2], [2, 1])
    out = without_gradients_if_it_must(call, backend).attend(backend)
    assert (out[0] == 0).all()
    assert (out[1, :, :16] == 0).all()
    assert (out[1, :, 16:] != 0).all()
    for gradient in backward(call, backend, out):
        assert torch.isfinite(gradient).all()
        assert (gradient[0] == 0).all()
        assert (gradient[1, :, :16] == 0).all()


def test_a_bias_of_minus_infinity_forbids(backend):
    bias = torch.zeros(1, 2, 20, 20)
    bias[..., 3, :] = -torch.inf
    bias[..., 5, ::2] = -torch.inf
    call = cases.simple(20, block_size=4, batch=1, bias=bias.requires_grad_())
    out = without_gradients_if_it_must(call, backend).attend(backend)
    expected = call.expected()[0]
    assert (out[:, :, 3] == 0).all()
    others = torch.arange(20) != 3  # for token 3 the formula is 0 / 0
    cases.close("out", out[:, :, others], expected[:, :, others], 1e-5)
    assert all(torch.isfinite(x).all() for x in backward(call, backend, out)[:3])


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_scores_of_ten_thousand_are_computed_like_any_other(backend, dtype):
    # Sums of two products of ±100 or 0, exact in every dtype: scores of −20,000 to 20,000 in steps of 10,000, many of
    # them equal. Probabilities are therefore exact fractions, and the tolerance is that of small scores.
    call = cases.simple(70, batch=1, dtype=dtype, scale=1.0)
    for x in (call.q, call.k):
        signs = torch.randint(-1, 2, (1, 2, 70, 2), generator=torch.Generator().manual_seed(int(x is call.q)))
        x.data.zero_()[..., :2] = 100.0 * signs
    out = without_gradients_if_it_must(call, backend).attend(backend)
    assert out.isfinite().all()
    expected, _, copies, largest = call.expected()
    kept = torch.promote_types(dtype, torch.float32)
    assert largest >= 1e4
    cases.close("out", out, expected, cases.tolerance(dtype))
    if out.requires_grad:
        gradients = torch.autograd.grad(out.square().sum(), call.inputs)
        for x, y in zip(gradients, torch.autograd.grad(expected.square().sum(), copies), strict=True):
            # Backward passes recompute probabilities from a log-sum-exp whose rounding error grows with its size.
            cases.close("gradient", x, y, cases.tolerance(dtype) + cases.tolerance(kept, largest))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_random_scores_equal_those_of_the_same_precision(backend, dtype, size):
    call = cases.simple(100, batch=1, dtype=dtype, scale=1.0)
    for x, length in ((call.q, size**0.5), (call.k, size**0.5)):
        x.data *= length / x.data.norm(dim=-1, keepdim=True)
    out = without_gradients_if_it_must(call, backend).attend(backend)
    assert out.isfinite().all()
    reference = call.attend("reference")
    assert call.expected()[3] > size / 4
    limit = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * (1 + size) + cases.tolerance(dtype)
    cases.close("out", out, reference, limit)
    if out.requires_grad:
        assert all(x.isfinite().all() for x in backward(call, backend, out))


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_not_a_number_is_passed_on_to_whoever_attends_to_it(backend, which):
    call = without_gradients_if_it_must(cases.simple(64, batch=1, heads=1, kv_heads=1, block_size=8), backend)
    getattr(call, which).data[0, 0, 3, 2] = torch.nan
    reached = call.allowed()[0][:, 3]
    out = call.attend(backend)[0, 0]
    if which == "q":
        assert out[3].isnan().all()
        assert out[torch.arange(64) != 3].isfinite().all()
    elif which == "k":
        assert out[reached].isnan().all()
        if backend in {"native", "gather"}:  # the others read every key before masking
            assert out[~reached].isfinite().all()
    else:  # dense backends multiply every value, by zero
        assert out[reached][:, 2].isnan().all()


def test_takes_any_strides_and_leaves_its_arguments_alone(backend):
    for how in cases.STRIDES:
        call = without_gradients_if_it_must(cases.simple(50), backend)
        for name in ("q", "k", "v"):
            setattr(call, name, cases.strided(getattr(call, name), how))
        before = [x.clone() for x in call.inputs]
        out = call.attend(backend)
        copies = [x.contiguous() for x in call.inputs]
        again = cases.Call(*copies, call.pattern, 16).attend(backend)
        torch.testing.assert_close(out, again, rtol=1e-6, atol=1e-6)
        assert all(torch.equal(x, y) for x, y in zip(before, call.inputs, strict=True))


def test_padding_queries_attend_like_any_other(backend):
    q, k, v = torch.randn(3, 1, 1, 32, 4, generator=torch.Generator().manual_seed(0)).unbind()
    real = torch.arange(32)[None] < 20
    out = nip.attend(q, k, v, nip.pattern("softmax", 2), 16, key_padding_mask=real, backend=backend)
    expected = torch.softmax(q[..., 25, :] @ k[0, 0, :20].T / 2, -1) @ v[0, 0, :20]
    torch.testing.assert_close(out[..., 25, :], expected)


@pytest.mark.parametrize("scale", [0.0, -0.7])
@pytest.mark.parametrize("name", ["softmax", "hypercube"])
def test_any_scale_keeps_forbidden_pairs_forbidden(backend, name, scale):
    call = cases.simple(20, name, 4, 1, 1, 1, 4, causal=True, scale=scale)
    cases.check(call, backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [-0.2, 0.2])
def test_the_sign_of_the_scale_costs_no_precision(backend, dtype, scale):
    """In half precision q, k, v are what they are: only the result is rounded, for scores of hundreds too."""
    torch.manual_seed(0)
    q, k, v = (size * x for size, x in zip((8, 8, 1), torch.randn(3, 2, 4, 120, 32).unbind(), strict=True))
    call = cases.Call(*(x.to(dtype) for x in (q, k, v)), nip.pattern("hypercube", 8), 16, {"scale": scale})
    if call.refusal(backend):
        return
    exact = nip.attend(*(x.double() for x in call.inputs), call.pattern, 16, scale=scale, backend="reference")
    error = (call.attend(backend).double() - exact).abs().max() / exact.abs().max()
    assert error < torch.finfo(dtype).eps


VARIANTS = {
    "plain": (4, 32, {}),
    "grouped": (1, 32, {}),
    "odd width": (4, 3, {}),
    "wide": (4, 256, {"scale": -1.0}),
    "causal": (2, 32, {"causal": True}),
    "padding": (4, 32, {"key_padding_mask": torch.arange(64).expand(2, -1) < 40}),
    "documents": (4, 32, {"segment_ids": (torch.arange(64) // 20).expand(2, -1)}),
    "dropout that drops nothing": (4, 32, {"dropout_p": 1e-8, "scale": -1.0}),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["hypercube", "softmax"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_rounds_the_result_alone(backend, dtype, name, variant):
    """Scores of up to a thousand, with which short inputs go to torch's own kernel by `auto`."""
    kv_heads, width, given = VARIANTS[variant]
    call = cases.simple(64, name, kv_heads=kv_heads, heads=4, head_dim=width, dtype=dtype, **{"scale": 1.0, **given})
    for x in (call.q, call.k):
        x.data *= 1000**0.5 / x.data.norm(dim=-1, keepdim=True)
    out = without_gradients_if_it_must(call, backend).attend(backend)
    exact = call.expected()[0]
    assert (out.double() - exact).abs().max() < torch.finfo(dtype).eps * exact.abs().max()


def test_padding_queries_of_several_documents_stay_in_theirs(backend):
    real = torch.arange(12)[None] < 8  # the last block attends to other blocks, but not to itself
    ids = torch.tensor([[1] * 4 + [2] * 4 + [1, 1, 2, 2]])
    cases.check(cases.simple(12, "softmax", 4, 1, 1, 1, 4, key_padding_mask=real, segment_ids=ids), backend)


WRONG = [
    {"q": torch.zeros(2, 40, 8)},
    {"k": torch.zeros(2, 4, 41, 8)},
    {"v": torch.zeros(2, 4, 40, 9)},
    {"k": torch.zeros(1, 4, 40, 8)},
    {"k": torch.zeros(2, 3, 40, 8), "v": torch.zeros(2, 3, 40, 8)},
    {"v": torch.zeros(2, 4, 40, 8, dtype=torch.float64)},
    {"q": torch.zeros(2, 4, 40, 8, dtype=torch.int32)},
    {"v": torch.zeros(2, 4, 40, 8, device="meta")},
    {"key_padding_mask": torch.ones(2, 39, dtype=torch.bool)},
    {"key_padding_mask": torch.ones(2, 40)},
    {"segment_ids": torch.ones(2, 41, dtype=torch.int64)},
    {"segment_ids": torch.ones(2, 40, dtype=torch.int64, device="meta")},
    {"bias": torch.zeros(40, 40)},
    {"pattern": nip.pattern("hypercube", 4)},
    {"pattern": nip.pattern("hypercube", 2)},
    {"block_size": 0},
    {"scale": np.inf},
    {"dropout_p": 1.0},
]


@pytest.mark.parametrize("wrong", WRONG, ids="-".join)
def test_wrong_input_gets_one_sentence_and_never_reaches_the_kernel(backend, wrong, monkeypatch):
    def reached(*_):
        raise AssertionError("the kernel was called")

    for name in BACKENDS:
        monkeypatch.setitem(BACKENDS, name, dataclasses.replace(BACKENDS[name], run=reached))
    monkeypatch.setattr(native, "_run", reached)
    q, k, v = (torch.zeros(2, 4, 40, 8) for _ in range(3))
    right = {"q": q, "k": k, "v": v, "pattern": nip.pattern("hypercube", 3), "block_size": 16}
    with pytest.raises(ValueError) as error:
        nip.attend(**{**right, **wrong}, backend=backend)
    assert "\n" not in str(error.value)
    with pytest.raises(AssertionError, match="the kernel was called"):  # as with valid arguments
        nip.attend(**right, backend=backend)
