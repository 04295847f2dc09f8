"""The attention function and the mask function that transformers call by the name `nip`.

Transformers asks the mask function once for every forward pass (and kind of layer), and hands what it returns to the
attention function of every layer. It returns a `Mask`: which tokens are real, whether attention is causal, where the
queries begin. Only a layer that stays dense makes a mask of tokens × tokens of it, once for all such layers.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    prepare_padding_mask,
    sdpa_mask,
)

from nip.attention import attend
from nip.graphs import Pattern
from nip.models.huggingface_layers import SITE, Site

NAME = "nip"

_REFUSED = {
    "softcap": "caps its scores (softcap)",
    "s_aux": "adds attention sinks (s_aux)",
    "sinks": "adds attention sinks",
    "indices": "chooses its own keys (indices)",
    "block_indices": "chooses its own blocks (block_indices)",
    "head_mask": "masks heads (head_mask)",
    "alibi": "adds ALiBi's slopes",
    "cache": "keeps its cache in pages",
    "cu_seq_lens_q": "packs sequences without a batch (cu_seq_lens_q)",
    "cu_seq_lens_k": "packs sequences without a batch (cu_seq_lens_k)",
}


@dataclass(eq=False)
class Mask:
    """What one forward pass says about who may attend to whom, beside the graph."""

    causal: bool
    padding: Tensor | None
    """(batch, keys) bool, True where a key is real; None if all are."""
    segments: Tensor | None = None
    """(batch, tokens) integer: packed documents."""
    special: bool = False
    """The model's mask says more than the other fields: a window, or a rule of its own."""
    q_offset: Any = 0
    kv_offset: int = 0
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    _dense: list[Tensor | None] = field(default_factory=list, repr=False)
    ndim = 4
    """Generation with a static cache makes masks ahead, and tells made ones from the user's by their dimensions."""

    def contiguous(self) -> Mask:
        """Itself: generation asks for this of masks that it made ahead."""
        return self

    def dense(self) -> Tensor | None:
        """The mask that torch's dense attention takes, as transformers makes it; made once."""
        if not self._dense:
            self._dense.append(sdpa_mask(**self.arguments))
        return self._dense[0]

    def pairs(self) -> Tensor:
        """(batch, 1, queries, keys) bool: who may attend to whom, written out."""
        skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask: Tensor = sdpa_mask(**{**self.arguments, **skips})
        return mask


def mask_function(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | Mask | None = None,
    local_size: int | None = None,
    **more: Any,
) -> Mask:
    """Note what the model asks of its mask; the parameters are those of transformers' `sdpa_mask`."""
    if isinstance(attention_mask, Mask):
        return attention_mask
    if isinstance(q_offset, Tensor):
        q_offset = q_offset.clone()  # a static cache counts on in place, before attention reads this
    arguments = {
        "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset, "kv_offset": kv_offset,
        "mask_function": mask_function, "attention_mask": attention_mask, "local_size": local_size, **more,
    }  # fmt: skip
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length]
        if not torch.compiler.is_compiling() and bool(padding.all()):
            padding = None
    segments = _segments(mask_function)
    plain = segments is not None or mask_function in (causal_mask_function, bidirectional_mask_function)
    causal = segments is not None or mask_function is causal_mask_function
    return Mask(causal, padding, segments, not plain, q_offset, kv_offset, arguments)


def _segments(function: Callable[..., Any]) -> Tensor | None:
    """The packed documents in a causal mask function that transformers put together; None if it is another.

    Transformers finds packed documents by their positions and hands over a function only. What it is made of can be
    read from its closure; one that looks different is not misread, but evaluated pair by pair.
    """
    parts = _closure(function).get("mask_functions")
    if not isinstance(parts, tuple) or len(parts) != 2:
        return None
    segments: Tensor | None = None
    for part in parts:
        inside = _closure(part)
        if set(inside) == {"packed_sequence_mask"}:
            segments = inside["packed_sequence_mask"]
        elif causal_mask_function not in (part, inside.get("mask_function")):  # as it is, or by positions: the same
            return None
    return segments


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    if not inspect.isfunction(function) or function.__closure__ is None:
        return {}
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__), strict=True))


def attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer: over its graph, or dense where it has none.

    Parameters
    ----------
    module : Module
        The layer's attention, which `nip.sparsify` has given a `Site`.
    query : Tensor of shape (batch, heads, queries, head_dim)
    key, value : Tensor of shape (batch, kv_heads, keys, head_dim)
    attention_mask : Mask or Tensor, optional
        What `mask_function` returned, or a mask of two or four dimensions that the model or its user made.
    position_bias : Tensor of shape (1 or batch, heads, queries, keys), optional
        Added to the scores (T5).

    Returns
    -------
    (Tensor of shape (batch, queries, heads, head_dim), None)

    Raises
    ------
    ValueError
        If the model was not sparsified, or asks for something that cannot be done over a graph.
    """
    site: Site | None = getattr(module, SITE, None)
    if site is None:
        raise ValueError(
            f"{type(module).__name__} does not know its graph. Load the model by nip.from_pretrained, or give it to "
            "nip.sparsify, in place of attn_implementation='nip'."
        )
    for name, what in _REFUSED.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"{site.path} {what}: nip cannot attend over a graph so.")
    if kwargs.get("output_attentions"):
        raise ValueError("Attention over a graph does not write its probabilities out: leave output_attentions off.")
    if site.graph is None:
        dense = attention_mask.dense() if isinstance(attention_mask, Mask) else attention_mask
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, dense, dropout, scaling, is_causal, position_bias=position_bias, **kwargs
        )
        return attended
    mask, given = _as_mask(attention_mask, module, is_causal)
    # A graph that grows with the text is laid out once for the longest one.
    grows = mask.causal or bool(getattr(module, "is_causal", False)) or _follows(mask)
    out = _attend(site, site.graph.block_size, query, key, value, mask, given, position_bias, dropout, scaling, grows)
    if not torch.compiler.is_compiling():
        site.calls += 1
    return out.transpose(1, 2).contiguous(), None


def _as_mask(mask: Mask | Tensor | None, module: nn.Module, is_causal: bool | None) -> tuple[Mask, Tensor | None]:
    """The mask, and what of it only a tensor of tokens × tokens can say: True or 0 where a pair counts."""
    if isinstance(mask, Mask):
        return mask, None
    if mask is None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)  # as transformers has it
        return Mask(bool(causal), None), None
    if mask.dim() == 2:
        return Mask(bool(getattr(module, "is_causal", False)), mask.bool()), None
    if mask.shape[1] == 1 and (mask.shape[2] == 1 or mask.stride(2) == 0):  # the same for all queries
        row = mask[:, 0, 0]
        return Mask(False, row if row.dtype == torch.bool else row >= 0), None
    return Mask(False, None, special=True), mask


def _follows(mask: Mask) -> bool:
    """Whether the queries follow on tokens whose keys were kept."""
    return not isinstance(mask.q_offset, int) or mask.q_offset > 0


def _attend(
    site: Site,
    block_size: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    given: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    scaling: float | None,
    grows: bool,
) -> Tensor:
    queries, keys = q.shape[2], k.shape[2]
    if queries != keys and not grows:
        raise ValueError(
            f"{site.path} has {queries} queries and {keys} keys: it attends to others than its own tokens. "
            f"Leave it dense: layers={{{site.index}: None}}."
        )
    if queries != keys or mask.special or _follows(mask):
        rows: Tensor = _attend_rows(site, q, k, v, mask, given, bias, dropout, scaling, grows)
        return rows
    graph = graph_of(site, operator.index(queries), grows)
    if bias is not None:
        bias = bias.expand(-1, q.shape[1], -1, -1)
    padding = None if mask.padding is None else mask.padding.to(q.device).expand(q.shape[0], -1)
    width, scaling = v.shape[-1], q.shape[-1] ** -0.5 if scaling is None else scaling
    if width != q.shape[-1]:  # zeros change neither scores nor results
        q, k, v = (pad(x, (0, max(width, q.shape[-1]) - x.shape[-1])) for x in (q, k, v))
    out = attend(
        q, k, v, graph, block_size, key_padding_mask=padding, segment_ids=mask.segments, bias=bias, causal=mask.causal,
        scale=scaling, dropout_p=dropout, backend=site.backend,
    )  # fmt: skip
    return out[..., :width]


def graph_of(site: Site, n_tokens: int, grows: bool) -> Pattern:
    """The graph of a layer for an input of that length."""
    if torch.compiler.is_compiling():
        # torch.compile reads what an object holds, but cannot hand on what a call returns.
        _keep_graph(site, n_tokens, grows)
        return site.kept[n_tokens, grows]
    assert site.graph is not None
    return site.graph.graph(n_tokens, site.max_tokens if grows else None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _keep_graph(site: Site, n_tokens: int, grows: bool) -> bool:
    assert site.graph is not None
    site.kept[n_tokens, grows] = site.graph.graph(n_tokens, site.max_tokens if grows else None)
    return True


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_rows(
    site: Site,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    given: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    scaling: float | None,
    grows: bool,
) -> Tensor:
    """Some rows of the graph's attention: queries that follow on a cache, or pairs that the model forbids one by one.

    Keys of blocks that no query attends to are left out before anything is computed.
    """
    assert site.graph is not None
    b, first, first_key = site.graph.block_size, int(mask.q_offset), int(mask.kv_offset)
    last, last_key = first + q.shape[2], first_key + k.shape[2]
    graph = graph_of(site, last if grows else max(last, last_key), grows)
    rows, row_of_query = np.unique(np.arange(first, last) // b, return_inverse=True)
    attended = np.zeros((len(rows), graph.n), dtype=bool)
    for i, row in enumerate(rows):
        attended[i, graph.row(row)] = attended[i, row] = True
    tokens = np.arange(first_key, min(last_key, graph.n * b, last if grows else last_key))
    used = attended.max(axis=0)
    tokens = tokens[used[tokens // b]]
    allowed = torch.from_numpy(attended[row_of_query][:, tokens // b]).to(q.device)
    if mask.causal or graph.causal:
        allowed &= torch.from_numpy(tokens[None, :] <= np.arange(first, last)[:, None]).to(q.device)
    chosen = torch.from_numpy(tokens - first_key).to(q.device)
    if len(tokens) < k.shape[2]:
        k, v = k.index_select(2, chosen), v.index_select(2, chosen)
    allowed = allowed[None, None]
    if mask.special and given is None:
        allowed = allowed & mask.pairs().index_select(-1, chosen)
    elif mask.padding is not None:
        allowed = allowed & mask.padding.to(q.device).index_select(-1, chosen)[:, None, None]
    added = None if bias is None else bias.index_select(-1, chosen)
    if given is not None:
        given = given.expand(*given.shape[:3], last_key - first_key).index_select(-1, chosen)
        if given.dtype == torch.bool:
            allowed = allowed & given
        else:
            allowed = allowed & (given > torch.finfo(given.dtype).min / 2)
            added = given if added is None else added + given
    nothing = ~allowed.any(-1, keepdim=True)  # such rows are undefined in torch: let them attend, then cut them off
    allowed = allowed | nothing
    weights = allowed if added is None else torch.where(allowed, added, -torch.inf).to(q.dtype)
    grouped = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, weights, dropout, scale=scaling, enable_gqa=grouped)
    return out.masked_fill(nothing, 0.0)


def register() -> None:
    """Let transformers find both functions; together, for without a mask function it drops all masks silently."""
    AttentionInterface.register(NAME, attention_function)
    AttentionMaskInterface.register(NAME, mask_function)


register()
