"""What the fused backends cannot differentiate: second derivatives and forward mode, refused in one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def first_derivatives_only(backend: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, of whose first derivatives only a backend computes: any other raises and names one that does.

    Without this, torch's own words would name one of its internal functions.

    Parameters
    ----------
    backend : str
        For the message.
    *tensors : Tensor
        Inputs of the backend.
    """
    passed: tuple[Tensor, ...] = _FirstOnly.apply(backend, *tensors)  # type: ignore[no-untyped-call]
    return passed


def _refusal(backend: str, what: str) -> NotImplementedError:
    return NotImplementedError(
        f"The attention backend {backend!r} does not compute {what}. Pass backend='reference' to attend, which does."
    )


class _FirstOnly(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.backend = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        given = [x for x in gradients if x is not None]
        kept = iter(_Refuse.apply(ctx.backend, *given) if given else ())  # type: ignore[no-untyped-call]
        return None, *(None if x is None else next(kept) for x in gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal(ctx.backend, "forward-mode derivatives")


class _Refuse(torch.autograd.Function):
    """The gradients themselves, which cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.backend = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise _refusal(ctx.backend, "second derivatives")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal(ctx.backend, "second derivatives")
