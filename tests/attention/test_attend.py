"""Every backend against the formula of attention in float64: results, log-sum-exp and every gradient."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nip
from nip.graphs import PATTERNS, Pattern

# Half precision is computed in float32, so only the rounding of results and gradients is left: 2⁻⁹ and 2⁻¹² of them.
# float32 and float64: sums of at most a few hundred terms of size one.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@st.composite
def patterns(draw, n):
    kind = draw(st.sampled_from([*PATTERNS, "directed", "isolated"]))
    causal = draw(st.booleans())
    if kind in PATTERNS:
        return nip.pattern(kind, n, causal=causal)
    if kind == "isolated":
        return Pattern.from_edges(n, [], [], name="isolated")
    edges = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=3 * n))
    return Pattern.from_edges(n, [i for i, _ in edges], [j for _, j in edges], name="directed")


@st.composite
def cases(draw):
    block_size = draw(st.sampled_from([1, 3, 4, 16]))
    tokens = draw(st.integers(1, 6 * block_size + 1) | st.sampled_from([1, 15, 16, 17]))
    return {
        "block_size": block_size,
        "tokens": tokens,
        "pattern": draw(patterns(-(-tokens // block_size))),
        "batch": draw(st.integers(1, 3)),
        "heads": draw(st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)])),
        "head_dim": draw(st.sampled_from([1, 3, 8])),
        "dtype": draw(st.sampled_from(list(TOLERANCE))),
        "causal": draw(st.booleans()),
        "scale": draw(st.sampled_from([None, 0.0, 0.3, -1.0])),
        "padding": draw(st.sampled_from([None, "end", "anywhere", "everything"])),
        "segments": draw(st.sampled_from([None, "sorted", "mixed"])),
        "bias": draw(st.sampled_from([None, 1, "batch"])),
        "seed": draw(st.integers(0, 2**31)),
    }


def build(case):
    """Tensors of a case: (q, k, v), keyword arguments of attend."""
    rng = np.random.default_rng(case["seed"])
    batch, tokens, (heads, kv_heads) = case["batch"], case["tokens"], case["heads"]

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).to(case["dtype"]).requires_grad_()

    qkv = [normal(batch, h, tokens, case["head_dim"]) for h in (heads, kv_heads, kv_heads)]
    keywords = {"causal": case["causal"], "scale": case["scale"]}
    if case["padding"] == "end":
        lengths = rng.integers(0, tokens + 1, batch)
        keywords["key_padding_mask"] = torch.from_numpy(np.arange(tokens) < lengths[:, None])
    elif case["padding"] == "anywhere":
        keywords["key_padding_mask"] = torch.from_numpy(rng.random((batch, tokens)) < 0.5)
    elif case["padding"] == "everything":
        keywords["key_padding_mask"] = torch.zeros(batch, tokens, dtype=torch.bool)
    if case["segments"] is not None:
        ids = rng.integers(-2, 3, (batch, tokens))
        keywords["segment_ids"] = torch.from_numpy(np.sort(ids) if case["segments"] == "sorted" else ids)
    if case["bias"] is not None:
        keywords["bias"] = normal(1 if case["bias"] == 1 else batch, heads, tokens, tokens)
    return qkv, keywords


def refused(backend, keywords, *, dtype=torch.float32, return_lse=False):
    """What a backend may leave to others: bias, and either log-sum-exp or dropout and other dtypes."""
    if backend == "native":
        return dtype != torch.float32 or keywords.keys() & {"bias", "dropout_p"}
    return backend == "dense" and (return_lse or "bias" in keywords)


def compare(case, backend, oracle, *, return_lse):
    qkv, keywords = build(case)
    if refused(backend, keywords, dtype=case["dtype"], return_lse=return_lse):
        with pytest.raises(ValueError, match=f"{backend}.*cannot compute this"):
            nip.attend(*qkv, case["pattern"], case["block_size"], **keywords, return_lse=return_lse, backend=backend)
        return
    result = nip.attend(*qkv, case["pattern"], case["block_size"], **keywords, return_lse=return_lse, backend=backend)
    expected_out, expected_lse = oracle(*qkv, case["pattern"], case["block_size"], **keywords)
    out, lse = result if return_lse else (result, None)
    tolerance = TOLERANCE[case["dtype"]]
    assert out.shape == qkv[0].shape
    assert out.dtype == case["dtype"]
    torch.testing.assert_close(out.double(), expected_out, rtol=tolerance, atol=tolerance)

    rng = np.random.default_rng(1)
    weights = torch.from_numpy(rng.standard_normal(out.shape)).to(case["dtype"])
    loss, expected_loss = (out * weights).sum(), (expected_out * weights.double()).sum()
    if lse is not None:
        assert lse.dtype == torch.promote_types(case["dtype"], torch.float32)
        # The scores that it sums are rounded to float32 at least, whatever the input.
        torch.testing.assert_close(lse.double(), expected_lse, rtol=TOLERANCE[lse.dtype], atol=TOLERANCE[lse.dtype])
        some = expected_lse > -torch.inf
        lse_weights = torch.from_numpy(rng.standard_normal(lse.shape))
        loss = loss + (lse.double() * lse_weights)[some].sum()
        expected_loss = expected_loss + (expected_lse * lse_weights)[some].sum()
    inputs = [*qkv, *([keywords["bias"]] if "bias" in keywords else [])]
    gradients = torch.autograd.grad(loss, inputs)
    expected = torch.autograd.grad(expected_loss, inputs)
    for name, gradient, right in zip(["q", "k", "v", "bias"], gradients, expected, strict=False):
        # A key's gradient sums over all queries: relative to the largest.
        largest = max(1.0, right.abs().max().item())
        torch.testing.assert_close(
            gradient.double(),
            right.double(),
            rtol=tolerance,
            atol=tolerance * largest,
            msg=lambda m, n=name: f"d{n}: {m}",
        )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), return_lse=st.booleans())
def test_equals_the_formula_for_every_input(backend, oracle, case, return_lse):
    compare(case, backend, oracle, return_lse=return_lse)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("tokens", [232, 1000])
def test_equals_the_formula_for_every_pattern_at_length(backend, oracle, name, tokens):
    case = {
        "block_size": 16, "tokens": tokens, "pattern": nip.pattern(name, -(-tokens // 16)), "batch": 2, "heads": (2, 1),
        "head_dim": 8, "dtype": torch.float32, "causal": False, "scale": None, "padding": "end", "segments": None,
        "bias": None, "seed": tokens,
    }  # fmt: skip
    compare(case, backend, oracle, return_lse=False)


@pytest.mark.parametrize("extra", ["plain", "causal", "padding", "segments", "bias", "lse", "dropout"])
def test_gradients_agree_with_finite_differences(backend, extra):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 5, 2, dtype=torch.float64, generator=generator, requires_grad=True) for h in (2, 1, 1))
    keywords = {
        "causal": {"causal": True},
        "padding": {"key_padding_mask": torch.tensor([[1, 0, 1, 1, 0], [0] * 5], dtype=torch.bool)},
        "segments": {"segment_ids": torch.tensor([[0, 0, 0, 1, 1], [0, 1, 0, 2, 0]])},
        "lse": {"return_lse": True},
        "dropout": {"dropout_p": 0.4},
    }.get(extra, {})
    bias = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    given = {**keywords, "bias": bias} if extra == "bias" else keywords
    if refused(backend, given, dtype=torch.float64, return_lse=extra == "lse"):
        pytest.skip(f"{backend} leaves {extra}, or float64, to others")

    def function(q, k, v, bias=None):
        torch.manual_seed(3)  # the same draws in every call
        return nip.attend(q, k, v, nip.pattern("hypercube", 3), 2, bias=bias, backend=backend, **keywords)

    assert torch.autograd.gradcheck(function, (q, k, v, bias) if extra == "bias" else (q, k, v), atol=1e-7)


def test_rows_with_nothing_to_attend_to_are_zero_and_leave_gradients_finite(backend):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 40, 4, requires_grad=True) for _ in range(3))
    real = torch.ones(2, 40, dtype=torch.bool)
    real[0] = False  # a whole sequence of padding
    real[1, :16] = False  # the only block that the first block attends to
    isolated = Pattern.from_edges(3, [1, 2], [2, 1])
    out = nip.attend(q, k, v, isolated, 16, key_padding_mask=real, backend=backend)
    assert (out[0] == 0).all()
    assert (out[1, :, :16] == 0).all()
    assert (out[1, :, 16:] != 0).all()
    out.square().sum().backward()
    for x in (q, k, v):
        assert torch.isfinite(x.grad).all()
        assert (x.grad[0] == 0).all()
        assert (x.grad[1, :, :16] == 0).all()


def test_a_bias_of_minus_infinity_forbids(backend, oracle):
    if refused(backend, {"bias": None}):
        pytest.skip(f"{backend} leaves bias to others")
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 20, 4, requires_grad=True) for _ in range(3))
    bias = torch.zeros(1, 2, 20, 20)
    bias[..., 3, :] = -torch.inf
    bias[..., 5, ::2] = -torch.inf
    pattern = nip.pattern("hypercube", 5)
    out = nip.attend(q, k, v, pattern, 4, bias=bias, backend=backend)
    odd = torch.arange(20) % 2 == 1
    for row, keys in ((3, torch.zeros(20, dtype=torch.bool)), (5, odd)):
        only = oracle(q, k, v, pattern, 4, key_padding_mask=keys[None])[0]
        torch.testing.assert_close(out[:, :, row].double(), only[:, :, row], rtol=1e-5, atol=1e-6)
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_padding_queries_attend_like_any_other(backend):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 32, 4).unbind()
    real = torch.arange(32)[None] < 20
    out = nip.attend(q, k, v, nip.pattern("softmax", 2), 16, key_padding_mask=real, backend=backend)
    expected = torch.softmax(q[..., 25, :] @ k[0, 0, :20].T / 2, -1) @ v[0, 0, :20]
    torch.testing.assert_close(out[..., 25, :], expected)


def test_dropout_zeroes_that_share_of_the_allowed_pairs_and_scales_the_rest(backend, allowed):
    if refused(backend, {"dropout_p": 0.25}):
        pytest.skip(f"{backend} leaves dropout to others")
    tokens, p = 96, 0.25
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 2, tokens, tokens).unbind()
    one_hot = torch.eye(tokens).expand(1, 2, -1, -1)  # as values: the result is the probabilities themselves
    pattern = nip.pattern("bigbird", 6)

    def probabilities(dropout_p):
        torch.manual_seed(5)
        return nip.attend(q, k, one_hot, pattern, 16, dropout_p=dropout_p, backend=backend)

    dropped, whole = probabilities(p), probabilities(0.0)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / (1 - p))
    pairs = allowed(pattern, 16, tokens, 1)[0].expand(2, -1, -1)
    share = 1 - kept[0][pairs].double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / pairs.sum().item()) ** 0.5  # five standard deviations
    assert torch.equal(dropped, probabilities(p))
    assert not torch.equal(dropped, nip.attend(q, k, one_hot, pattern, 16, dropout_p=p, backend=backend))


def test_takes_any_strides_and_leaves_its_arguments_alone(backend):
    torch.manual_seed(0)
    packed = torch.randn(2, 50, 3, 4, 8)
    before = packed.clone()
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind()  # heads and tokens swapped, as a linear layer leaves them
    pattern = nip.pattern("hypercube", 4)
    out = nip.attend(q, k, v, pattern, 16, backend=backend)
    copies = (x.contiguous() for x in (q, k, v))
    torch.testing.assert_close(out, nip.attend(*copies, pattern, 16, backend=backend), rtol=1e-6, atol=1e-6)
    assert torch.equal(packed, before)


def test_autocast_does_not_lower_the_precision(backend):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 64, 8, requires_grad=True) for _ in range(3))
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = nip.attend(q, k, v, nip.pattern("hypercube", 4), 16, backend=backend)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for plain, under_autocast in zip(*results, strict=True):
        assert torch.equal(plain, under_autocast)


@pytest.mark.parametrize("scale", [0.0, -0.7])
@pytest.mark.parametrize("name", ["softmax", "hypercube"])
def test_any_scale_keeps_forbidden_pairs_forbidden(backend, oracle, name, scale):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 20, 4).unbind()
    pattern = nip.pattern(name, 5)
    out = nip.attend(q, k, v, pattern, 4, causal=True, scale=scale, backend=backend)
    expected, _ = oracle(q, k, v, pattern, 4, causal=True, scale=scale)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_padding_queries_of_several_documents_stay_in_theirs(backend, oracle):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 12, 4).unbind()
    real = torch.arange(12)[None] < 8  # the last block attends to others, but not to itself
    ids = torch.tensor([[1] * 4 + [2] * 4 + [1, 1, 2, 2]])
    masks = {"key_padding_mask": real, "segment_ids": ids}
    out = nip.attend(q, k, v, nip.pattern("softmax", 3), 4, **masks, backend=backend)
    expected, _ = oracle(q, k, v, nip.pattern("softmax", 3), 4, **masks)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
