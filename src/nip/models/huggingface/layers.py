"""The attention modules of a Hugging Face model, and the graph of each.

Attention can be replaced in modules that look the function up in transformers' interface. They are recognized by their
source code; a model without such modules computes attention itself and cannot be made sparse.
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
"""The attribute of an attention module with its `Site`."""

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
    """``self``: self-attention; ``decoder``: that of an encoder–decoder's decoder; ``cross``: cross-attention."""
    index: int
    """The layer's number among those of its role."""
    graph: LayerGraph | None
    """None: dense attention."""
    backend: str = "auto"
    max_tokens: int | None = None
    """The longest input that a causal graph is built for."""
    calls: int = 0
    """The number of calls over the graph, outside torch.compile."""
    kept: dict[tuple[int, bool], Pattern] = field(default_factory=dict, repr=False)
    """Graphs by number of tokens and whether the text grows, for torch.compile."""

    def graph_for(self, n_tokens: int, grows: bool) -> Pattern:
        """The graph for an input of `n_tokens`; if the text grows, the corner of the graph for `max_tokens`."""
        assert self.graph is not None
        if grows and self.max_tokens is None and self.graph.custom is None:
            raise ValueError(
                f"{self.path} is causal, and the model's configuration has no maximum length: give nip.sparsify its "
                "max_tokens."
            )
        return self.graph.graph(n_tokens, self.max_tokens if grows else None)


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Role]]:
    """The modules that look their attention function up in transformers' interface, in the model's order."""
    is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    for path, module in model.named_modules():
        if _uses_interface(module):
            yield path, module, _role(path, module, is_encoder_decoder)


def own_attention_classes(model: nn.Module) -> list[str]:
    """Names of the model's attention classes that compute attention themselves."""
    names = {
        type(module).__name__
        for module in model.modules()
        if "Attention" in type(module).__name__
        and not _uses_interface(module)
        and "softmax(" in _source(type(module).forward)
    }
    return sorted(names)


def unsupported(module: nn.Module) -> str | None:
    """What this module adds to attention that is not supported over a graph; None if nothing is known."""
    if getattr(module, "config", None) is None:
        return "has no configuration"
    if getattr(module, "attn_logit_softcapping", None):
        return "caps its scores (softcap)"
    if getattr(module, "sinks", None) is not None:
        return "adds attention sinks"
    return None


def attention_layers(model: nn.Module) -> list[Site]:
    """The attention modules of a sparsified model, each with its role, its graph and the number of calls."""
    return [site for module in model.modules() if (site := getattr(module, SITE, None)) is not None]


def has_window(module: nn.Module) -> bool:
    """Whether the model's configuration gives this layer a sliding window, or another kind of local attention."""
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


def _uses_interface(module: nn.Module) -> bool:
    return "get_interface(" in _source(type(module).forward)


@cache
def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""
