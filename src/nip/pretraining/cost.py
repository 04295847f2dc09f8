"""Estimates before anything is built: FLOPs of training on a token, and the memory of a process.

FLOPs are those of the matrix products that the model needs: linear layers, attention over the pairs of tokens that its
graphs connect, and the output layer at masked positions. Padding and recomputed activations do not count, as in the
model FLOPs utilization of [1]_ (appendix B).

The memory of weights, gradients and optimizer state follows from the number of weights. Activations are estimated in
copies of the hidden states; on models of every architecture the estimate is within a third of the measurement.

References
----------
.. [1] A. Chowdhery and others, *PaLM*, arXiv 2204.02311.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from nip.formatting import format_bytes
from nip.graphs import Pattern
from nip.models.huggingface.sparsify import attention_layers

TRAINING = 3.0
"""FLOPs of a forward and a backward pass over those of a forward pass: the backward pass has twice the products."""
OPTIMIZER_STATES = {
    "adam": 2.0,
    "adamw": 2.0,
    "lamb": 3.0,
    "lamb-deepspeed": 3.0,
    "adafactor": 0.1,
    "adafactor-absolute": 0.1,
}
"""Numbers of the optimizer for each weight, temporaries of its step included: LAMB's third is its update."""
FEED_FORWARD = {"bert": 2.0, "roberta-prelayernorm": 2.0, "modernbert": 5.0}
"""Copies of a feed-forward layer's inner states: before and after the activation; ModernBERT's has a gate."""
HIDDEN = 9.0
"""Copies of a layer's hidden states: before and after each norm, queries, keys, values, attention, residual sums."""


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of training on one token, forward and backward; a multiplication and an addition count as two."""

    linear: float
    """Of the linear layers."""
    attention: float
    head: float
    """Of the output layer, which only masked tokens use."""

    @property
    def total(self) -> float:
        """Their sum."""
        return self.linear + self.attention + self.head


def training_flops(model: PreTrainedModel, n_tokens: int, masked: float) -> TrainingFlops:
    """Count the FLOPs of training a model that `build_model` made, for one token.

    Parameters
    ----------
    model : PreTrainedModel
        May be on the device "meta", without weights.
    n_tokens : int
        Of a sample.
    masked : float
        Masked tokens of a sample, on average.

    Returns
    -------
    TrainingFlops
        Per token.
    """
    encoder = _linear_weights(model.base_model, without="pooler")
    head = _linear_weights(model) - _linear_weights(model.base_model)
    config: Any = model.config
    pairs = 0.0
    for layer in attention_layers(model):
        if layer.graph is None:
            pairs += n_tokens
        else:
            pairs += attended_pairs(layer.graph.graph(n_tokens), layer.graph.block_size, n_tokens) / n_tokens
    return TrainingFlops(
        linear=2 * TRAINING * encoder,
        attention=2 * TRAINING * 2 * config.hidden_size * pairs,  # queries with keys, and weights with values
        head=2 * TRAINING * head * masked / n_tokens,
    )


def attended_pairs(graph: Pattern, block_size: int, n_tokens: int) -> int:
    """Number of pairs of tokens that attend over a graph of blocks.

    Parameters
    ----------
    graph : Pattern
    block_size, n_tokens : int
        The last block may be shorter.

    Returns
    -------
    int

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


def _linear_weights(module: nn.Module, without: str | None = None) -> int:
    return sum(
        each.in_features * each.out_features
        for path, each in module.named_modules()
        if isinstance(each, nn.Linear) and (without is None or without not in path)
    )


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one process, without Python and its libraries."""

    weights: float
    gradients: float
    moments: float
    """The optimizer's state."""
    activations: float
    """Kept by the layers for the backward pass."""
    head: float
    """Scores of the vocabulary at masked positions."""

    @property
    def total(self) -> float:
        """Their sum."""
        return self.weights + self.gradients + self.moments + self.activations + self.head

    def __str__(self) -> str:
        sizes = (("weights", self.weights), ("gradients", self.gradients), ("optimizer", self.moments),
                 ("layers", self.activations), ("output layer", self.head))  # fmt: skip
        return f"{format_bytes(self.total)} ({', '.join(f'{name} {format_bytes(size)}' for name, size in sizes)})"


def training_memory(
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
        May be on the device "meta", without weights.
    n_tokens, micro_batch : int
        Of a sample; and samples of a micro-batch.
    masked : float
        Masked tokens of a sample.
    optimizer : str, default="adamw"
    half : bool, default=False
        Layers compute in bf16 or fp16; weights are in fp32.
    checkpointing : bool, default=False
        Activations are recomputed in the backward pass.
    weight_shards, state_shards : int, default=1
        Processes over which weights and gradients, and the optimizer's state, are sharded.

    Returns
    -------
    Memory
        In bytes, of one process.
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
    dense = sum(each.graph is None or each.graph.name == "softmax" for each in attention_layers(model))
    masks = 1.0 * micro_batch * n_tokens**2  # of a dense layer: which pairs of tokens are of one document
    kept = layers * states + layer + masks if checkpointing else layers * layer + dense * masks
    return Memory(
        weights=weights / weight_shards,
        gradients=weights / weight_shards,
        moments=OPTIMIZER_STATES[optimizer] * weights / max(weight_shards, state_shards),
        activations=kept + 3 * states + (weights / 2 if half else 0.0),  # autocast's copies of the weights
        head=3 * 4.0 * masked * micro_batch * config.vocab_size,
    )
