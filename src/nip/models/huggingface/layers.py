"""Find the attention modules of a Hugging Face model and their roles.

The attention of a module can be replaced if the module looks up its attention function in transformers' attention
interface. The module's source shows whether it does: a model without such modules computes attention itself and cannot
be sparsified.
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
    """An attention module of a model and the graph that it attends over."""

    path: str
    """The module's dotted name in the model."""
    role: Role
    """``self``: self-attention; ``decoder``: self-attention in the decoder of an encoder–decoder; ``cross``: other."""
    index: int
    """Index of the layer among those with its role."""
    graph: LayerGraph | None
    """None: the model's own dense attention."""
    backend: str = "auto"
    max_tokens: int | None = None
    """The input length for which a graph is built whose corner shorter inputs use."""
    corner: bool = False
    """Whether inputs of an encoder use that corner too, not only those of a causal model."""
    pad_to: int | None = None
    """The multiple of tokens to which inputs of an encoder are padded."""
    calls: int = 0
    """Number of calls of attention over the graph, outside torch.compile."""
    kept: dict[tuple[int, bool], Pattern] = field(default_factory=dict, repr=False)
    """The graphs of a compiled model, by input length and `grows`."""

    def graph_for(self, n_tokens: int, grows: bool) -> Pattern:
        """Return the graph for `n_tokens`; if the text `grows`, or with `corner`, a corner of that for `max_tokens`."""
        assert self.graph is not None
        if not grows:
            within = self.corner and self.max_tokens is not None and n_tokens <= self.max_tokens
            return self.graph.graph(n_tokens, self.max_tokens if within else None)
        if grows and self.max_tokens is None and self.graph.custom is None:
            raise ValueError(
                f"{self.path} is causal, and the model's configuration has no maximum length: pass max_tokens to "
                "nip.sparsify."
            )
        return self.graph.graph(n_tokens, self.max_tokens)


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Role]]:
    """Yield the modules that look up their attention function in transformers: name, module and role."""
    is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    for path, module in model.named_modules():
        if _uses_interface(module):
            yield path, module, _role(path, module, is_encoder_decoder)


def own_attention_classes(model: nn.Module) -> list[str]:
    """Return the names of the model's attention classes that compute the softmax themselves."""
    classes = {type(module) for module in model.modules() if not _uses_interface(module)}
    return sorted({c.__name__ for c in classes if "Attention" in c.__name__ and "softmax(" in _source(c.forward)})


def unsupported(module: nn.Module) -> str | None:
    """Return what the module adds to attention that cannot be combined with a graph; None if nothing is known."""
    if getattr(module, "config", None) is None:
        return "has no configuration"
    if getattr(module, "attn_logit_softcapping", None):
        return "caps its scores (softcap)"
    if getattr(module, "sinks", None) is not None:
        return "adds attention sinks"
    return None


def attention_layers(model: nn.Module) -> list[Site]:
    """Return the attention modules of a sparsified model, each with its role, graph and number of calls."""
    return [site for module in model.modules() if (site := getattr(module, SITE, None)) is not None]


def has_window(module: nn.Module) -> bool:
    """Whether the model's configuration lists this layer's type as other than full attention (sliding window)."""
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
