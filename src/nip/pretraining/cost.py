"""How much a token of training computes, how fast this device multiplies, and so what share of that a run reaches.

Counted are the products of matrices that the model needs: its linear maps, attention over the pairs of tokens that its
graphs join, and the output layer at the masked positions. Not counted is what is computed besides, such as padding, or
layers a second time for their gradients, as in the model FLOPs utilisation of [1]_ (appendix B).

References
----------
.. [1] A. Chowdhery and others, *PaLM*, arXiv 2204.02311.

How much memory a process of pretraining takes, estimated before anything is built.

Weights, gradients and the optimizer's state follow from the number of weights. What a layer keeps for its gradients is
counted in copies of its hidden states; measured on models of every family it is right within a third.
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

from nip.formatting import format_bytes
from nip.graphs import Pattern
from nip.models.huggingface.sparsify import attention_layers

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


STATES = {"adam": 2.0, "adamw": 2.0, "lamb": 3.0, "adafactor": 0.1}
"""Numbers that the optimizer holds for each weight: LAMB's third is its update, while it takes a step."""
FEED_FORWARD = {"bert": 2.0, "roberta-prelayernorm": 2.0, "modernbert": 5.0}
"""Copies of a layer's inner states: before and after its activation, ModernBERT's with its gate."""
HIDDEN = 9.0
"""Copies of its hidden states: before and after each norm, queries, keys, values, their result, and what is added."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, besides what Python and its libraries take."""

    weights: float
    gradients: float
    moments: float
    """The optimizer's state."""
    activations: float
    """What the layers keep for their gradients."""
    head: float
    """Scores of the vocabulary at masked positions."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.moments + self.activations + self.head

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("gradients", self.gradients), ("optimizer", self.moments),
                 ("layers", self.activations), ("output layer", self.head))  # fmt: skip
        return f"{format_bytes(self.total)} ({', '.join(f'{name} {format_bytes(size)}' for name, size in parts)})"


def memory_of(
    model: PreTrainedModel,
    n_tokens: int,
    micro_batch: int,
    masked: float,
    *,
    optimizer: str = "adamw",
    half: bool = False,
    checkpointing: bool = False,
    weight_shards: int = 1,
    state_shards: int = 1,
) -> Memory:
    """Estimate the memory of training a model that `build_model` made.

    Parameters
    ----------
    model : PreTrainedModel
        May lie on the device "meta", without weights.
    n_tokens, micro_batch : int
        Of a sample; and samples that are computed at once.
    masked : float
        Masked tokens of a sample.
    optimizer : str, default="adamw"
    half : bool, default=False
        Layers compute in two bytes a number; weights are kept in four.
    checkpointing : bool, default=False
        Layers are computed again for their gradients.
    weight_shards, state_shards : int, default=1
        Processes that share out weights and gradients, and those that share out the optimizer's state.
    """
    config: Any = model.config
    weights = 4.0 * sum(weight.numel() for weight in model.parameters())
    tokens = n_tokens * micro_batch
    size = 2.0 if half else 4.0
    inner = FEED_FORWARD[config.model_type] * config.intermediate_size
    dropout = 0.25 * size * 3 * config.hidden_size if getattr(config, "hidden_dropout_prob", 0) else 0.0
    layer = tokens * (size * (HIDDEN * config.hidden_size + inner) + dropout)
    states = tokens * 4.0 * config.hidden_size
    layers = config.num_hidden_layers
    masks = 1.0 * micro_batch * n_tokens**2  # of a dense layer: which pairs of tokens are of one document
    kept = layers * states + layer + masks if checkpointing else layers * layer + _dense(model) * masks
    rows = config.vocab_size
    return Memory(
        weights=weights / weight_shards,
        gradients=weights / weight_shards,
        moments=STATES[optimizer] * weights / max(weight_shards, state_shards),
        activations=kept + 3 * states + (weights / 2 if half else 0.0),  # autocast's copies of the weights
        head=3 * 4.0 * masked * micro_batch * rows,
    )


def _dense(model: PreTrainedModel) -> int:
    """How many layers attend to all tokens."""
    return sum(site.graph is None or site.graph.name == "softmax" for site in attention_layers(model))
