"""FlexAttention: its masks pair by pair, its results in torch's eager (dense) mode, and its compiled form."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torch_flex

import attention_cases as cases
import nip
from nip.attention import BACKENDS, flex
from nip.attention.arguments import Options
from nip.attention.layout import block_layout
from nip.attention.tiles import TILE

NAMES = ["hypercube", "softmax", "bigbird", "longformer", "global", "local", "random", "local+random"]
CPU = torch.device("cpu")


@pytest.fixture
def dense_math(monkeypatch):
    """FlexAttention in torch's eager mode: all pairs, masks and biases as given, any dtype.

    It ignores the list of tiles, which the tests of `nip.attention.tiles` and the compiled test cover.
    """
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)  # it rejects gradients on a CPU
    monkeypatch.setattr(flex, "_compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setitem(
        BACKENDS, "flex", dataclasses.replace(BACKENDS["flex"], missing=lambda: None, refuses=lambda *_: None)
    )


@st.composite
def problems(draw):
    block_size = draw(st.sampled_from([1, 5, 16, 64, 200]))
    tokens = draw(st.integers(1, min(300, 40 * block_size)))
    batch, generator = draw(st.integers(1, 3)), np.random.default_rng(draw(st.integers(0, 999)))
    masks = {"causal": draw(st.booleans())}
    if draw(st.booleans()):
        masks["key_padding_mask"] = torch.from_numpy(
            generator.random((batch, tokens)) < draw(st.sampled_from([0, 0.5, 0.9]))
        )
    if draw(st.booleans()):
        masks["segment_ids"] = torch.from_numpy(generator.integers(-1, 2, (batch, tokens)))
    pattern = nip.pattern(draw(st.sampled_from(NAMES)), -(-tokens // block_size), causal=draw(st.booleans()))
    return pattern, block_size, tokens, batch, masks


def tensors(batch, heads, kv_heads, tokens, head_dim, dtype=torch.float64, *, grad=True):
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(batch, h, tokens, head_dim, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)
        for h in (heads, kv_heads, kv_heads)
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
@example(problem=(nip.pattern("hypercube", 2), 200, 257, 1, {"causal": False}))  # its last tile is empty
def test_the_mask_is_the_patterns_and_skips_only_what_it_forbids(problem):
    pattern, block_size, tokens, batch, masks = problem
    layout = block_layout(pattern, block_size, tokens, is_causal=masks["causal"])
    options = Options(1.0, masks.get("key_padding_mask"), masks.get("segment_ids"))
    mask = flex.block_mask(layout, options, CPU)
    length = flex.filled(tokens)
    assert mask.shape == (1, 1, length, length)
    tokenwise = torch_flex.create_mask(mask.mask_mod, batch, 1, length, length, device="cpu")[:, 0]
    like = torch.empty(batch, 1, tokens, 1)
    expected = cases.Call(like, like, like, pattern, block_size, masks).allowed()
    assert torch.equal(tokenwise[:, :tokens, :tokens], expected)
    assert not tokenwise[:, :tokens, tokens:].any()

    tokenwise = tokenwise & (torch.arange(length)[:, None] < tokens)  # padding queries may be skipped
    tiles = length // TILE
    tilewise = tokenwise.view(batch, tiles, TILE, tiles, TILE)
    by_query = mask.to_dense()[0, 0].bool()
    assert (by_query | ~tilewise.any(4).any(2)).all()  # nothing allowed is skipped
    full = torch.zeros_like(by_query)
    if mask.full_kv_num_blocks is not None:
        full = torch_flex._ordered_to_dense(mask.full_kv_num_blocks, mask.full_kv_indices, tiles)[0, 0].bool()
    padded = torch.zeros(batch, length, length, dtype=torch.bool)
    padded[:, tokens:] = True  # padding queries may attend to anything
    padded[:, :tokens, :tokens] = expected
    assert (
        padded.view(batch, tiles, TILE, tiles, TILE).all(4).all(2) | ~full
    ).all()  # and what is not masked is allowed

    for part in ("", "full_"):
        forth = getattr(mask, f"{part}kv_num_blocks"), getattr(mask, f"{part}kv_indices")
        back = getattr(mask, f"{part}q_num_blocks"), getattr(mask, f"{part}q_indices")
        if forth[0] is not None:  # the backward pass uses the same tiles
            dense = (torch_flex._ordered_to_dense(*x, tiles) for x in (forth, back))
            assert torch.equal(next(dense).mT, next(dense))


def test_tiles_in_which_all_pairs_attend_need_no_mask():
    mask = flex.block_mask(block_layout(nip.pattern("softmax", 32), 16, 512), Options(1.0), CPU)
    assert mask.kv_num_blocks.sum() == 0
    assert mask.full_kv_num_blocks.sum() == 16


def test_tables_are_made_once_for_a_layout_and_device():
    layout, real = block_layout(nip.pattern("hypercube", 16), 16, 256), torch.ones(2, 256, dtype=torch.bool)
    first, second = (flex.block_mask(layout, Options(1.0, key_padding_mask=real), CPU) for _ in range(2))
    assert first.kv_indices is second.kv_indices
    assert first.kv_indices is not flex.block_mask(layout, Options(1.0), CPU).kv_indices


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems(), head_dim=st.sampled_from([1, 8, 20]), scale=st.sampled_from([None, 0.0, -0.7]))
def test_equals_the_formula_with_all_gradients(problem, head_dim, scale, dense_math):
    pattern, block_size, tokens, batch, masks = problem
    qkv = tensors(batch, 4, 2, tokens, head_dim)
    out, lse = nip.attend(*qkv, pattern, block_size, **masks, scale=scale, return_lse=True, backend="flex")
    expected, expected_lse, copies, _ = cases.Call(*qkv, pattern, block_size, {**masks, "scale": scale}).expected()
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-10, atol=1e-10)
    some = expected_lse > -torch.inf
    gradients = torch.autograd.grad(out.square().sum() + lse[some].sin().sum(), qkv)
    rights = torch.autograd.grad(expected.square().sum() + expected_lse[some].sin().sum(), copies)
    for found, right in zip(gradients, rights, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias_batch", [1, 2])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_bias_is_added_and_gets_its_gradient(bias_batch, dense_math, monkeypatch):
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", False)  # a bias must be found by dynamo
    pattern, tokens = nip.pattern("hypercube", 10), 150
    qkv = tensors(2, 2, 1, tokens, 8, torch.float32)
    bias = torch.randn(bias_batch, 2, tokens, tokens, generator=torch.Generator().manual_seed(1))
    bias[..., 3, :] = -torch.inf
    bias.requires_grad_()
    real = torch.arange(tokens) < torch.tensor([[tokens], [70]])
    out = nip.attend(*qkv, pattern, 16, bias=bias, key_padding_mask=real, backend="flex")
    assert (out[:, :, 3] == 0).all()
    found = torch.autograd.grad(out.square().sum(), [*qkv, bias])
    dense = nip.attend(*qkv, pattern, 16, bias=bias, key_padding_mask=real, backend="reference")
    torch.testing.assert_close(out, dense, rtol=3e-5, atol=3e-5)
    for gradient, right in zip(found, torch.autograd.grad(dense.square().sum(), [*qkv, bias]), strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-4)


REFUSED = [
    (torch.float32, {"needs_grad": True}, "on a CPU it has no backward pass"),
    (torch.float32, {"return_lse": True}, "on a CPU it does not return the log-sum-exp"),
    (torch.float32, {"dropout_p": 0.1}, "it does not support dropout"),
    (torch.float64, {}, "it does not support float64"),
]


@pytest.mark.skipif(flex.missing("cpu") is not None, reason=str(flex.missing("cpu")))
@pytest.mark.parametrize(("dtype", "options", "reason"), REFUSED)
def test_what_it_cannot_do_is_refused(dtype, options, reason):
    q = torch.zeros(1, 1, 32, 16, dtype=dtype, requires_grad="needs_grad" in options)
    keywords = {name: value for name, value in options.items() if name != "needs_grad"}
    with pytest.raises(ValueError, match=f"'flex' cannot compute this: {reason}"):
        nip.attend(q, q, q, nip.pattern("hypercube", 2), 16, backend="flex", **keywords)


def test_without_a_compiler_the_error_names_the_package(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(flex, "_cuda_missing", lambda: "there is no CUDA device")
    flex._cpu_missing.cache_clear()
    try:
        reason = flex.missing("cpu")
        assert reason is not None
        if "AVX2" not in reason:
            assert "no-such-compiler: install g++" in reason
        q = torch.zeros(1, 1, 32, 16)
        with pytest.raises(ValueError, match="'flex' is not available: torch compiles FlexAttention"):
            nip.attend(q, q, q, nip.pattern("hypercube", 2), 16, backend="flex")
    finally:
        flex._cpu_missing.cache_clear()


def test_tables_that_would_be_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(flex, "MOST_TABLE_BYTES", 1000)
    layout = block_layout(nip.pattern("local", 500), 1, 500)
    with pytest.raises(ValueError, match=r"needs tables of 0\.0 GiB for 500 tokens in 500 blocks.*backend='gather'"):
        flex.block_mask(layout, Options(1.0), CPU)


compiles = pytest.mark.skipif(flex.missing("cpu") is not None, reason=str(flex.missing("cpu")))


@compiles
def test_compiled_for_one_length_it_serves_all_that_round_up_to_it():
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    for name, tokens, causal in (("hypercube", 512, False), ("bigbird", 400, False), ("softmax", 385, False)):
        pattern, qkv = nip.pattern(name, -(-tokens // 16)), tensors(2, 2, 1, tokens, 8, torch.float32)
        with torch.no_grad():
            out = nip.attend(*qkv, pattern, 16, causal=causal, backend="flex")
        expected = cases.Call(*qkv, pattern, 16, {"causal": causal}).expected()[0]
        torch.testing.assert_close(out.double(), expected, rtol=3e-5, atol=3e-5)
    assert counted["unique_graphs"] == before + 1


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_with_masks_and_bias_equals_the_formula(dtype, masked):
    pattern, tokens = nip.pattern("bigbird", 25), 400
    qkv = tensors(3, 4, 2, tokens, 8, dtype, grad=False)
    masks = {"causal": True}
    if masked:
        real = torch.arange(tokens) < torch.tensor([[tokens], [130], [0]])
        masks = {"key_padding_mask": real, "segment_ids": (torch.arange(3 * tokens) % 7).view(3, tokens)}
        masks["bias"] = torch.randn(1, 4, tokens, tokens, generator=torch.Generator().manual_seed(2))
    out = nip.attend(*qkv, pattern, 16, **masks, backend="flex")
    expected = cases.Call(*qkv, pattern, 16, masks).expected()[0]
    tolerance = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    if masked:
        assert (out[2] == 0).all()


@compiles
def test_is_part_of_the_graph_of_a_compiled_model():
    pattern, qkv = nip.pattern("hypercube", 32), tensors(2, 2, 2, 512, 16, torch.float32, grad=False)

    # torch's C++ kernel for FlexAttention cannot fuse a following operation, and fails if the compiler tries to.
    @torch.compile(fullgraph=True, backend="aot_eager")
    def model(q, k, v):
        return nip.attend(2 * q, k, v, pattern, 16, backend="flex") + 1

    expected = cases.Call(2 * qkv[0], *qkv[1:], pattern, 16).expected()[0]
    torch.testing.assert_close(model(*qkv).double(), expected + 1, rtol=3e-5, atol=3e-5)
