"""Comparison of a backend with the reference: results and gradients on small problems, on any device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nip import graphs
from nip.attention import attend

# Relative to the largest element of a result or gradient. Half precision rounds probabilities, and gradients of scores,
# before they are multiplied: a few units in the last place (2⁻⁸ and 2⁻¹¹). float32 sums some hundred terms.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}


@dataclass(frozen=True)
class Agreement:
    """The errors of a backend on a small problem, relative to the reference in float64."""

    problem: str
    dtype: str
    errors: dict[str, float]
    """For "out", "lse", "dq", "dk", "dv": the largest difference over the largest element (at least 1)."""

    @property
    def worst(self) -> float:
        """The largest error; NaN in a result counts as infinite."""
        return max(self.errors.values())

    @property
    def holds(self) -> bool:
        """Whether every error is within the tolerance of the dtype."""
        return self.worst <= TOLERANCE[self.dtype]

    def __str__(self) -> str:
        errors = ", ".join(f"{name} {error:.1g}" for name, error in self.errors.items())
        return f"{self.problem} in {self.dtype}: {errors}; allowed {TOLERANCE[self.dtype]:.0e}"


# Multiples of the tile size 128 and other lengths, blocks below, at and above a tile, masks of every kind.
PROBLEMS: tuple[tuple[str, int, int, tuple[int, int], str], ...] = (
    ("hypercube", 1024, 16, (4, 4), ""),
    ("hypercube", 1000, 16, (4, 2), "padding"),
    ("bigbird", 640, 64, (2, 2), "padding segments"),
    ("longformer", 777, 32, (2, 1), "causal"),
    ("random", 515, 8, (2, 2), "causal padding"),
    ("softmax", 512, 128, (2, 2), ""),
    ("local", 300, 200, (2, 2), "segments"),
)


def agreements(
    backend: str, device: str, dtypes: Sequence[str], *, head_dim: int = 64, gradients: bool = True
) -> Iterator[Agreement]:
    """Compare a backend with the reference on each of `PROBLEMS`.

    Parameters
    ----------
    backend : str
    device : str
        A torch device.
    dtypes : sequence of str
        Keys of `TOLERANCE`.
    head_dim : int, default=64
    gradients : bool, default=True
        Also compare the gradients of q, k and v, and the log-sum-exp.

    Yields
    ------
    Agreement
    """
    for dtype in dtypes:
        for problem in PROBLEMS:
            yield _compare(backend, torch.device(device), dtype, problem, head_dim, gradients)


def _compare(
    backend: str, device: torch.device, dtype: str, problem: tuple[str, int, int, tuple[int, int], str],
    head_dim: int, gradients: bool,
) -> Agreement:  # fmt: skip
    name, tokens, block_size, (heads, kv_heads), masks = problem
    what = f"{name} of {tokens} tokens in blocks of {block_size}, {heads} on {kv_heads} heads"
    batch, generator = 2, torch.Generator().manual_seed(tokens)
    keywords: dict[str, Any] = {"causal": "causal" in masks}
    if "padding" in masks:
        keywords["key_padding_mask"] = (
            torch.arange(tokens, device="cpu") < torch.tensor([[tokens], [tokens // 3]], device="cpu")
        ).to(device)
    if "segments" in masks:
        keywords["segment_ids"] = (torch.arange(tokens, device="cpu") * 3 // tokens).expand(batch, -1).to(device)
    pattern = graphs.pattern(name, -(-tokens // block_size))
    q, k, v, weights = (
        torch.randn(batch, h, tokens, head_dim, generator=generator, device="cpu").to(device, getattr(torch, dtype))
        for h in (heads, kv_heads, kv_heads, heads)
    )

    def results(backend: str, kind: torch.dtype) -> dict[str, Tensor]:
        inputs = [x.detach().to(kind).requires_grad_(gradients) for x in (q, k, v)]
        arguments: Any = (*inputs, pattern, block_size)
        if not gradients:
            only: Any = attend(*arguments, **keywords, backend=backend)
            return {"out": only}
        out, lse = attend(*arguments, **keywords, return_lse=True, backend=backend)
        some = lse > -torch.inf
        loss = (out * weights.to(kind)).sum() + lse[some].sum()
        found = torch.autograd.grad(loss, inputs)
        return {"out": out, "lse": lse.masked_fill(~some, 0.0), **dict(zip(("dq", "dk", "dv"), found, strict=True))}

    found, right = results(backend, q.dtype), results("reference", torch.float64)
    return Agreement(
        problem=f"{what}, {masks or 'no masks'}",
        dtype=dtype,
        errors={name: _error(found[name], right[name]) for name in right},
    )


def _error(found: Tensor, right: Tensor) -> float:
    error = float((found.detach().double() - right.detach()).abs().max() / right.detach().abs().max().clamp(min=1))
    return math.inf if math.isnan(error) else error
