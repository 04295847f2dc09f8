"""Dropout with 16 random bits per element on the CPU, several times faster there than torch's own.

The probability is rounded to a multiple of 2⁻¹⁶ (0.1 becomes 0.100006), and the kept elements are scaled by the exact
inverse of the share kept, so the expectation is preserved. Every call draws one number from torch's default generator,
which `torch.manual_seed` controls, and seeds an SFC64 generator with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 2**16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element of `x` with probability `p` and scale the others by 1/(1 − p).

    Parameters
    ----------
    x : Tensor
    p : float
        Dropout probability, in [0, 1).
    training : bool
        If False, `x` itself is returned.

    Returns
    -------
    Tensor of the shape of `x`
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, p)
    dropped: Tensor = _dropped(x, p)
    return dropped


def add_dropout(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """Return ``residual + dropout(x)``, in a single pass over memory on the CPU.

    Parameters
    ----------
    residual, x : Tensor of the same shape
    p : float
        Dropout probability on `x`, in [0, 1).
    training : bool
        If False, nothing is dropped.

    Returns
    -------
    Tensor of the shape of `x`
    """
    if not training or p == 0:
        return residual + x
    if x.device.type != "cpu":
        return residual + functional.dropout(x, p)
    added: Tensor = _added(residual, x, p)
    return added


def draw_kept(x: Tensor, p: float) -> tuple[Tensor, float]:
    """Return a uint8 tensor, 1 at the elements of `x` to keep, and the factor that scales the kept elements."""
    dropped = round(p * LEVELS)
    if dropped >= LEVELS:
        return torch.zeros(x.shape, dtype=torch.uint8, device="cpu"), 0.0
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    words = np.random.SFC64(seed).random_raw(-(-x.numel() // 4))
    kept = words.view(np.int16)[: x.numel()] >= dropped - LEVELS // 2
    # uint8 because torch converts it to float ten times faster than bool
    return torch.from_numpy(kept.view(np.uint8)).view(x.shape), LEVELS / (LEVELS - dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept, ctx.scale = draw_kept(x, p)
        ctx.save_for_backward(kept)
        return kept.to(x.dtype).mul_(x).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kept.to(grads[0].dtype).mul_(grads[0]).mul_(ctx.scale), None


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, p: float) -> Tensor:
        kept, ctx.scale = draw_kept(x, p)
        ctx.save_for_backward(kept)
        return torch.addcmul(residual, x, kept.to(x.dtype), value=ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grads[0], kept.to(grads[0].dtype).mul_(grads[0]).mul_(ctx.scale), None


# torch.compile would compile numpy's generator, and breaks its graph here instead: draws are those of eager mode.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _dropped(x: Tensor, p: float) -> Tensor:
    dropped: Tensor = _Dropout.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _added(residual: Tensor, x: Tensor, p: float) -> Tensor:
    added: Tensor = _AddDropout.apply(residual, x, p)  # type: ignore[no-untyped-call]
    return added
