"""A prepared forward pass, and the passes through it that are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nip.attention import attend
from nip.bench.rows import DENSE, Case


@dataclass(frozen=True)
class Problem:
    """A forward pass and the tensors that get gradients."""

    forward: Callable[[], Tensor]
    inputs: tuple[Tensor, ...]

    def call(self, direction: str) -> Callable[[], object]:
        """Return a call of that pass; for a backward pass, the forward pass is computed here, once.

        A forward pass is computed as in inference: nothing is stored for gradients.
        """
        for x in self.inputs:
            x.requires_grad_(direction != "forward")
        if direction == "forward":
            return self.forward
        out = self.forward()
        gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), device="cpu").to(out.dtype)
        if direction == "backward":
            return lambda: torch.autograd.grad(out, self.inputs, gradient, retain_graph=True)
        return lambda: torch.autograd.grad(self.forward(), self.inputs, gradient)


def random_tensors(case: Case, number: int, *shape: int) -> tuple[Tensor, ...]:
    """Draw normal tensors of the case's dtype from a fixed seed.

    Parameters
    ----------
    case : Case
    number : int
        Number of tensors.
    *shape : int

    Returns
    -------
    tuple of Tensor
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(*shape, generator=generator, device="cpu").to(getattr(torch, case.dtype)) for _ in range(number)
    )


def heads_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v, (batch, heads, tokens, head_dim)."""
    q, k, v = random_tensors(case, 3, case.batch, case.heads, case.n_tokens, case.head_dim)
    return q, k, v


def attention(case: Case, backend: str) -> Problem:
    """Attention over the case's pattern with a backend, or torch's dense attention."""
    q, k, v = heads_of(case)
    if backend == DENSE:
        return Problem(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), (q, k, v))
    pattern = case.graph()
    return Problem(lambda: attend(q, k, v, pattern, case.block_size, backend=backend), (q, k, v))
