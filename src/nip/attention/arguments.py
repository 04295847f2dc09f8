"""Validation of the arguments of `attend`, before any backend runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Options:
    """Validated arguments of `attend` other than q, k, v and the layout; backends do not check them again."""

    scale: float
    """Scores are ``scale · q kᵀ``."""
    key_padding_mask: Tensor | None = None
    """(batch, tokens) bool, True where the token is real: only real tokens are attended to."""
    segment_ids: Tensor | None = None
    """(batch, tokens) integer: tokens attend only to tokens with the same id."""
    bias: Tensor | None = None
    """(1 or batch, heads, tokens, tokens), added to the scaled scores."""
    dropout_p: float = 0.0
    """Dropout probability on the attention probabilities; the others are scaled by 1 / (1 − dropout_p)."""
    return_lse: bool = False
    """Whether to return the log-sum-exp of the scores."""
    needs_grad: bool = False
    """Whether some input requires gradients and gradients are enabled."""


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    bias: Tensor | None,
    scale: float | None,
    dropout_p: float,
    return_lse: bool,
) -> Options:
    """Check the arguments of `attend` and fill in defaults.

    Parameters
    ----------
    q, k, v, key_padding_mask, segment_ids, bias, scale, dropout_p, return_lse
        As for `nip.attention.dispatch.attend`.

    Returns
    -------
    Options

    Raises
    ------
    ValueError
        If a shape, dtype, device or value is invalid.
    TypeError
        If a number is a tensor.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4 or 0 in x.shape[1:]:
            raise ValueError(
                f"The '{name}' parameter of attend must have shape (batch, heads, tokens, head_dim), none of them 0 "
                f"but the batch. Got {tuple(x.shape)} instead."
            )
        if x.dtype not in DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ValueError(f"The '{name}' parameter of attend must be one of {names}. Got {x.dtype} instead.")
    batch, heads, tokens, head_dim = q.shape
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise ValueError(f"q, k and v of attend must have one dtype. Got {q.dtype} and, for {name}, {x.dtype}.")
        if (x.shape[0], *x.shape[2:]) != (batch, tokens, head_dim):
            raise ValueError(
                f"The '{name}' parameter of attend must have q's batch, tokens and head_dim: "
                f"{(batch, '…', tokens, head_dim)}. Got {tuple(x.shape)} instead."
            )
    if v.shape[1] != k.shape[1] or heads % k.shape[1]:
        raise ValueError(
            f"k and v of attend must have one number of heads, which divides q's {heads}. "
            f"Got {k.shape[1]} and {v.shape[1]} instead."
        )
    _check_token_mask("key_padding_mask", key_padding_mask, (batch, tokens), "bool")
    _check_token_mask("segment_ids", segment_ids, (batch, tokens), "integer")
    if bias is not None and (
        bias.shape not in {(1, heads, tokens, tokens), (batch, heads, tokens, tokens)} or bias.dtype not in DTYPES
    ):
        raise ValueError(
            f"The 'bias' parameter of attend must be floating point of shape (1 or {batch}, {heads}, {tokens}, "
            f"{tokens}). Got {bias.dtype} of shape {tuple(bias.shape)} instead."
        )
    tensors = {"k": k, "v": v, "key_padding_mask": key_padding_mask, "segment_ids": segment_ids, "bias": bias}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != q.device:
            raise ValueError(
                f"The '{name}' parameter of attend must be on q's device {q.device}. Got {tensor.device} instead."
            )
    for name, number in (("scale", scale), ("dropout_p", dropout_p)):
        if isinstance(number, Tensor):  # as torch's own attention: its gradient would be lost
            mend = ": for a learned scale pass scale=1.0 and multiply q by it" if name == "scale" else ""
            raise TypeError(f"The '{name}' parameter of attend must be a number, not a Tensor{mend}.")
    if scale is None:
        scale = head_dim**-0.5
    elif not math.isfinite(scale):
        raise ValueError(f"The 'scale' parameter of attend must be finite. Got {scale!r} instead.")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"The 'dropout_p' parameter of attend must be in [0, 1). Got {dropout_p!r} instead.")
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if bias is not None and torch.is_grad_enabled() and bias.requires_grad:
        needs_grad = True
    return Options(float(scale), key_padding_mask, segment_ids, bias, float(dropout_p), return_lse, needs_grad)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise TypeError unless all are dense tensors."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or x.is_nested or x.layout != torch.strided:
            nested = getattr(x, "is_nested", False)
            kind = "a nested tensor: pad it, and pass key_padding_mask" if nested else getattr(x, "layout", type(x))
            raise TypeError(f"The '{name}' parameter of attend must be a dense torch.Tensor. Got {kind}.")


def _check_token_mask(name: str, mask: Tensor | None, shape: tuple[int, int], kind: str) -> None:
    if mask is None:
        return
    is_bool = mask.dtype == torch.bool
    is_integer = not (is_bool or mask.dtype.is_floating_point or mask.dtype.is_complex)
    if mask.shape != shape or not (is_bool if kind == "bool" else is_integer):
        raise ValueError(
            f"The '{name}' parameter of attend must be {kind} of shape (batch, tokens) = {shape}. "
            f"Got {mask.dtype} of shape {tuple(mask.shape)} instead."
        )
