"""What fused backends cannot transform: second derivatives, forward mode and some maps, refused in one sentence."""

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


def not_differentiable_again(
    backend: str, gradients: tuple[Tensor | None, ...], depend_on: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of a backward pass, of which any further derivative raises.

    torch's `once_differentiable` raises only if the gradients depend on an incoming gradient that requires one. For a
    loss that is linear in the result they depend on the inputs alone, and would be taken for constants.

    Parameters
    ----------
    backend : str
        For the message.
    gradients : tuple of Tensor or None
    depend_on : tuple of Tensor or None
        The tensors from which the backward pass computed them.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradients
    given = [x for x in gradients if x is not None]
    others = [x for x in depend_on if x is not None]
    kept = iter(_Refuse.apply(backend, len(given), *given, *others))  # type: ignore[no-untyped-call]
    return tuple(None if x is None else next(kept) for x in gradients)


def refuse_mapped(backend: str, what: str, *tensors: Tensor | None) -> None:
    """Raise NotImplementedError if `torch.func.vmap` maps one of the tensors.

    Parameters
    ----------
    backend, what : str
        For the message: the backend, and what the tensors are.
    *tensors : Tensor or None
    """
    if torch.compiler.is_compiling():
        return
    functorch = torch._C._functorch
    for x in tensors:
        while x is not None and functorch.is_functorch_wrapped_tensor(x):
            if functorch.is_batchedtensor(x):
                raise NotImplementedError(
                    f"The attention backend {backend!r} takes no {what} that torch.func.vmap maps. Pass "
                    "backend='reference' to attend, which does."
                )
            x = functorch.get_unwrapped(x)  # noqa: PLW2901


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
        return None, *not_differentiable_again(ctx.backend, gradients, ())

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal(ctx.backend, "forward-mode derivatives")


class _Refuse(torch.autograd.Function):
    """The first of the tensors themselves, of which no derivative by any of the tensors can be computed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.backend = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise _refusal(ctx.backend, "second derivatives")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _refusal(ctx.backend, "second derivatives")
