"""Random calls of attention, and what they must give: attention in float64 from the edges of the pattern alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import nip
from nip.graphs import Pattern, names_at

# Errors are TIMES · eps · (1 + largest score), since a score is rounded by its size. In half precision the inputs are
# what they are, and only results, gradients and what a backend keeps in it are rounded.
TIMES = {torch.float64: 32, torch.float32: 32, torch.float16: 4, torch.bfloat16: 4}
DTYPES = list(TIMES)


def tolerance(dtype: torch.dtype, largest_score: float = 0.0) -> float:
    return TIMES[dtype] * torch.finfo(dtype).eps * (1 + largest_score)


@dataclass
class Call:
    """Arguments of one call, and of the oracle."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    pattern: Pattern
    block_size: int
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[torch.Tensor]:
        bias = self.keywords.get("bias")
        return [self.q, self.k, self.v, *([] if bias is None else [bias])]

    def attend(self, backend: str, **more: Any) -> Any:
        return nip.attend(
            self.q, self.k, self.v, self.pattern, self.block_size, **self.keywords, **more, backend=backend
        )

    def refusal(self, backend: str, **more: Any) -> str | None:
        """What the backend says if it leaves this call to others; None if it takes it."""
        try:
            nip.explain(self.q, self.k, self.v, self.pattern, self.block_size, **self.keywords, **more, backend=backend)
        except ValueError as error:
            assert "cannot compute this" in str(error)
            return str(error)
        return None

    def allowed(self) -> torch.Tensor:
        batch, _, tokens, _ = self.q.shape
        masks = {name: self.keywords.get(name) for name in ("key_padding_mask", "segment_ids", "causal")}
        return allowed(self.pattern, self.block_size, tokens, batch, **masks)

    def expected(
        self, keep: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], float]:
        """Result, log-sum-exp, float64 copies of the inputs that they hang on, and the largest score."""
        copies = [x.detach().double().requires_grad_() for x in self.inputs]
        out, lse, largest = formula(*copies, mask=self.allowed(), scale=self.keywords.get("scale"), keep=keep)
        return out, lse, copies, largest


def allowed(
    pattern: Pattern,
    block_size: int,
    tokens: int,
    batch: int,
    key_padding_mask: torch.Tensor | None = None,
    segment_ids: torch.Tensor | None = None,
    causal: bool | None = False,
) -> torch.Tensor:
    """Who may attend to whom: (batch, tokens, tokens) bool, from the edges of the graph."""
    graph = nx.DiGraph(nip.graphs.to_networkx(pattern))
    mask = np.zeros((batch, tokens, tokens), dtype=bool)
    b = block_size
    for i, j in [*graph.edges, *((i, i) for i in range(pattern.n))]:
        mask[:, i * b : (i + 1) * b, j * b : (j + 1) * b] = True
    if causal or pattern.causal:
        mask &= np.arange(tokens)[:, None] >= np.arange(tokens)
    if key_padding_mask is not None:
        mask &= key_padding_mask.numpy()[:, None, :]
    if segment_ids is not None:
        mask &= segment_ids.numpy()[:, :, None] == segment_ids.numpy()[:, None, :]
    return torch.from_numpy(mask)


def formula(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    mask: torch.Tensor,
    scale: float | None = None,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Attention in float64: result, log-sum-exp and the largest score.

    `keep`, (batch, heads, tokens, tokens), multiplies the probabilities, as dropout does.
    """
    q, k, v = q.double(), *(x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.double()
    mask = mask[:, None]
    some = mask.any(-1)
    scores = torch.where(mask, scores, -torch.inf)
    safe = torch.where(some[..., None], scores, 0.0)
    weights = safe.softmax(-1) * some[..., None]
    if keep is not None:
        weights = weights * keep
    finite = scores[scores.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    return weights @ v, torch.where(some, safe.logsumexp(-1), -torch.inf), largest


def check(call: Call, backend: str, *, return_lse: bool = False) -> None:
    """One call, forward and all gradients, against the oracle; or that it is refused, if the backend says so."""
    call_inputs = call.inputs
    gradients_too = call.refusal(backend, return_lse=return_lse) is None
    if not gradients_too:
        for x in call_inputs:
            x.requires_grad_(False)
        if (refusal := call.refusal(backend, return_lse=return_lse)) is not None:
            with pytest.raises(ValueError) as error:
                call.attend(backend, return_lse=return_lse)
            assert str(error.value) == refusal
            return
    result = call.attend(backend, return_lse=return_lse)
    out, lse = result if return_lse else (result, None)
    dtype = call.q.dtype
    expected_out, expected_lse, copies, largest = call.expected()
    limit = tolerance(dtype, largest)
    assert out.shape == call.q.shape
    assert out.dtype == dtype
    close("out", out, expected_out, limit)
    generator = torch.Generator().manual_seed(1)
    # Its products with v, of which a gradient is a difference, are of size one.
    weights = (torch.randn(out.shape, generator=generator) * out.shape[-1] ** -0.5).to(dtype)
    loss, expected_loss = (out * weights).sum(), (expected_out * weights.double()).sum()
    if lse is not None:
        assert lse.dtype == torch.promote_types(dtype, torch.float32)
        close("lse", lse, expected_lse, limit)
        weights = torch.randn(lse.shape, generator=generator, dtype=lse.dtype)
        some = expected_lse > -torch.inf
        loss = loss + (lse * weights)[some].sum()
        expected_loss = expected_loss + (expected_lse * weights.double())[some].sum()
    if gradients_too:
        gradients = torch.autograd.grad(loss, call_inputs)
        for name, x, y in zip("qkvb", gradients, torch.autograd.grad(expected_loss, copies), strict=False):
            close(f"d{name}", x, y, limit)


def close(name: str, actual: torch.Tensor, expected: torch.Tensor, limit: float) -> None:
    """Equal up to the limit, of each element or of the largest: sums round by the size of what they sum."""
    finite = expected[expected.isfinite()]
    largest = max(1.0, finite.abs().max().item() if finite.numel() else 0.0)
    torch.testing.assert_close(
        actual.detach().double(),
        expected.detach().double(),
        rtol=limit,
        atol=limit * largest,
        msg=lambda m: f"{name}: {m}",
    )


@st.composite
def patterns(draw: st.DrawFn, n: int) -> Pattern:
    kind = draw(st.sampled_from([*(names := names_at(n)), "directed", "isolated"]))
    if kind in names:
        return nip.pattern(kind, n, causal=draw(st.booleans()))
    if kind == "isolated":
        return Pattern.from_edges(n, [], [], name="isolated")
    edges = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=3 * n))
    return Pattern.from_edges(n, [i for i, _ in edges], [j for _, j in edges], name="directed")


STRIDES = [
    "heads first",
    "tokens first",
    "packed",
    "one for all heads",
    "one for all batches",
    "every second",
    "offset",
]


def strided(x: torch.Tensor, how: str) -> torch.Tensor:
    """The same shape and, but for expanded ones, the same values, lying otherwise in memory."""
    batch, heads, tokens, d = x.shape
    if how == "tokens first":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    elif how == "packed":
        x = (
            torch.stack([torch.full_like(x, torch.nan), x, x], 3)
            .transpose(1, 2)
            .contiguous()[..., 1, :]
            .transpose(1, 2)
        )
    elif how == "one for all heads":
        x = x[:, :1].expand(batch, heads, tokens, d)
    elif how == "one for all batches":
        x = x[:1].expand(batch, heads, tokens, d)
    elif how == "every second":
        x = torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]
    elif how == "offset":
        x = torch.cat([torch.full((3,), torch.nan, dtype=x.dtype), x.flatten()])[3:].view(x.shape)
    return x.detach()


@st.composite
def calls(draw: st.DrawFn, dtypes: list[torch.dtype], *, bias: bool = True) -> Call:
    block_size = draw(st.sampled_from([1, 3, 8, 16, 24, 32, 64, 128]))
    tokens = draw(st.integers(1, min(300, 6 * block_size + 1)) | st.sampled_from([1, 15, 16, 17]))
    batch = draw(st.integers(1, 3))
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]))
    head_dim = draw(st.sampled_from([1, 3, 8, 16, 24, 32, 64] if tokens > 64 else [8, 40, 96, 128, 256]))
    dtype = draw(st.sampled_from(dtypes))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    q, k, v = (
        strided(normal(batch, h, tokens, head_dim), draw(st.sampled_from(STRIDES))).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    )
    scale = draw(st.sampled_from([None, None, 0.0, 0.3, -1.0]))
    keywords: dict[str, Any] = {"causal": draw(st.booleans()), "scale": scale}
    padding = draw(st.sampled_from([None, "end", "anywhere", "everything"]))
    if padding == "end":
        lengths = torch.randint(0, tokens + 1, (batch, 1), generator=rng)
        keywords["key_padding_mask"] = torch.arange(tokens) < lengths
    elif padding is not None:
        keywords["key_padding_mask"] = (torch.rand(batch, tokens, generator=rng) < 0.5) & (padding == "anywhere")
    segments = draw(st.sampled_from([None, "sorted", "mixed"]))
    if segments is not None:
        ids = torch.randint(-2, 3, (batch, tokens), generator=rng)
        keywords["segment_ids"] = ids.sort(-1).values if segments == "sorted" else ids
    if bias and draw(st.booleans()):
        keywords["bias"] = normal(draw(st.sampled_from([1, batch])), heads, tokens, tokens).requires_grad_()
    return Call(q, k, v, draw(patterns(-(-tokens // block_size))), block_size, keywords)


def simple(
    tokens: int = 100,
    pattern: str = "hypercube",
    block_size: int = 16,
    batch: int = 2,
    heads: int = 2,
    kv_heads: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **keywords: Any,
) -> Call:
    """One call of given sizes with normal q, k and v that need gradients."""
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(batch, h, tokens, head_dim, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    )
    return Call(q, k, v, nip.pattern(pattern, -(-tokens // block_size)), block_size, keywords)


def takes(backend: str, dtype: torch.dtype = torch.float32, *, gradients: bool = True, **keywords: Any) -> bool:
    """Whether a backend takes such a call at all."""
    call = simple(tokens=8, block_size=4, dtype=dtype)
    if not gradients:
        for x in call.inputs:
            x.requires_grad_(False)
    return call.refusal(backend, **keywords) is None
