"""Where a Hugging Face model computes attention, and what each of these places is for.

A model can be given another attention where its modules ask transformers for the function by name. Those modules are
found in the model's own source: where none asks, the model computes attention itself and cannot be made sparse.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from torch import nn

from nip.graphs import Pattern
from nip.models.huggingface.config import LayerGraph

SITE = "_nip_site"
"""The attribute of an attention module that holds its `Site`."""

Role = Literal["self", "decoder", "cross"]

_CROSS_NAMES = {
    "crossattention", "cross_attn", "cross_attention", "encoder_attn", "encdecattention", "x_attn",
    "encoder_decoder_attention", "cross_attention_layer", "encoder_attn_text",
}  # fmt: skip


@dataclass(eq=False)
class Site:
    """One attention module of a model, and the graph that it attends over."""

    path: str
    """The module's name in the model."""
    role: Role
    """``self``: own tokens; ``decoder``: own tokens of an encoder–decoder's decoder; ``cross``: other tokens."""
    index: int
    """Number of the layer among those of its role."""
    graph: LayerGraph | None
    """None: dense attention, as the model has it."""
    backend: str = "auto"
    max_tokens: int | None = None
    """The longest input for which a causal graph is laid out."""
    calls: int = 0
    """How often attention over the graph has run here, outside torch.compile."""
    kept: dict[tuple[int, bool], Pattern] = field(default_factory=dict, repr=False)
    """The graphs of a compiled model."""

    def graph_for(self, n_tokens: int, grows: bool) -> Pattern:
        """The graph for an input of that length; of one that may grow, the corner of the graph for `max_tokens`."""
        assert self.graph is not None
        if grows and self.max_tokens is None and self.graph.custom is None:
            raise ValueError(
                f"{self.path} is causal, and the model's configuration does not say how long a text may grow: give "
                "nip.sparsify its max_tokens."
            )
        return self.graph.graph(n_tokens, self.max_tokens if grows else None)


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Role]]:
    """The modules that ask transformers for their attention function, in the model's order."""
    is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    for path, module in model.named_modules():
        if _asks(module):
            yield path, module, _role(path, module, is_encoder_decoder)


def home_made(model: nn.Module) -> list[str]:
    """Names of the model's classes of attention that compute their probabilities themselves."""
    names = {
        type(module).__name__
        for module in model.modules()
        if "Attention" in type(module).__name__ and not _asks(module) and "softmax(" in _source(type(module).forward)
    }
    return sorted(names)


def refused(module: nn.Module) -> str | None:
    """What this module adds to attention that a graph has no place for; None if nothing is known."""
    if getattr(module, "config", None) is None:
        return "holds no configuration"
    if getattr(module, "attn_logit_softcapping", None):
        return "caps its scores (softcap)"
    if getattr(module, "sinks", None) is not None:
        return "adds attention sinks"
    return None


def attention_layers(model: nn.Module) -> list[Site]:
    """What each attention module of a sparsified model does: its role, its graph, and how often that has run."""
    return [site for module in model.modules() if (site := getattr(module, SITE, None)) is not None]


def has_window(module: nn.Module) -> bool:
    """Whether the model's configuration limits this layer, and not all, to a window of tokens around each."""
    types: Any = getattr(getattr(module, "config", None), "layer_types", None) or []
    index = getattr(module, "layer_idx", None)
    return isinstance(index, int) and index < len(types) and types[index] not in {"full_attention", "attention"}


def _role(path: str, module: Any, is_encoder_decoder: bool) -> Role:
    parts = path.lower().split(".")
    if (
        "Cross" in type(module).__name__
        or getattr(module, "is_cross_attention", False)
        or not _CROSS_NAMES.isdisjoint(parts)
    ):
        return "cross"
    if is_encoder_decoder:
        side = next((part for part in parts if part in {"encoder", "decoder"}), "encoder")
        if side == "decoder":
            return "decoder" if getattr(module, "is_causal", True) else "cross"
    return "self"


def _asks(module: nn.Module) -> bool:
    return "get_interface(" in _source(type(module).forward)


@cache
def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""
