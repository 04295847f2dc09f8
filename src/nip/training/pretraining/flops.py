"""How much a token of training computes, how fast this device multiplies, and so what share of that a run reaches.

Counted are the products of matrices that the model needs: its linear maps, attention over the pairs of tokens that its
graphs join, and the output layer at the masked positions. Not counted is what is computed besides, such as padding, or
layers a second time for their gradients, as in the model FLOPs utilisation of [1]_ (appendix B).

References
----------
.. [1] A. Chowdhery and others, *PaLM*, arXiv 2204.02311.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from nip.graphs import Pattern
from nip.models.huggingface import attention_layers

TRAINING = 3.0
"""Times the forward pass: the backward pass computes two products for each of its."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of training on one token, forward and backward: a product and a sum count as two."""

    linear: float
    """Of the linear maps in all layers."""
    attention: float
    head: float
    """Of the output layer, which only masked tokens see."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.attention + self.head


def work_of(model: PreTrainedModel, n_tokens: int, masked: float) -> Work:
    """The work of training a model that `build_model` made.

    Parameters
    ----------
    model : PreTrainedModel
        May lie on the device "meta", without weights.
    n_tokens : int
        Of a sample.
    masked : float
        Masked tokens of a sample, on average.
    """
    encoder = _linear_maps(model.base_model, besides="pooler")
    head = _linear_maps(model) - _linear_maps(model.base_model)
    config: Any = model.config
    pairs = 0.0
    for site in attention_layers(model):
        if site.graph is None:
            pairs += n_tokens
        else:
            pairs += attended_pairs(site.graph.graph(n_tokens), site.graph.block_size, n_tokens) / n_tokens
    return Work(
        linear=2 * TRAINING * encoder,
        attention=2 * TRAINING * 2 * config.hidden_size * pairs,  # queries with keys, and weights with values
        head=2 * TRAINING * head * masked / n_tokens,
    )


def attended_pairs(graph: Pattern, block_size: int, n_tokens: int) -> int:
    """How many pairs of tokens attend to each other over a graph of blocks, the last of which may be shorter.

    Examples
    --------
    >>> from nip.graphs import hypercube
    >>> attended_pairs(hypercube(4), 16, 64), attended_pairs(hypercube(4), 16, 50)
    (3072, 1924)
    """
    sizes = np.full(graph.n, block_size, np.int64)
    sizes[-1] = n_tokens - (graph.n - 1) * block_size
    rows = np.repeat(np.arange(graph.n), np.diff(graph.indptr))
    return int((sizes**2).sum() + (sizes[rows] * sizes[graph.indices]).sum())


def _linear_maps(module: nn.Module, besides: str | None = None) -> int:
    return sum(
        each.in_features * each.out_features
        for path, each in module.named_modules()
        if isinstance(each, nn.Linear) and (besides is None or besides not in path)
    )


def matmul_peak(device: torch.device, dtype: torch.dtype, *, side: int | None = None, tries: int = 10) -> float:
    """Floating-point operations a second of the fastest of some large products of matrices on a device.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        That the run computes in.
    side : int, optional
        Rows and columns: by default 1,024 on a CPU and 8,192 elsewhere.
    tries : int, default=10
    """
    n = side or (1024 if device.type == "cpu" else 8192)
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
    best = min(timed(lambda: torch.mm(a, b), device) for _ in range(tries))
    return 2.0 * n**3 / best


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes on a device."""
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
