"""How much memory a process of pretraining takes, estimated before anything is built.

Weights, gradients and the optimizer's state follow from the number of weights. What a layer keeps for its gradients is
counted in copies of its hidden states; measured on models of every family it is right within a third.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from nip.models.huggingface import attention_layers

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
        return f"{_in_words(self.total)} ({', '.join(f'{name} {_in_words(size)}' for name, size in parts)})"


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


def _in_words(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
