"""The attention function that is registered with transformers as `nip`, with its mask function."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from nip.attention import attend
from nip.graphs import Pattern
from nip.models.huggingface.layers import SITE, Site
from nip.models.huggingface.masks import Mask, mask_function

NAME = "nip"

_UNSUPPORTED = {
    "softcap": "caps its scores (softcap)",
    "s_aux": "adds attention sinks (s_aux)",
    "sinks": "adds attention sinks",
    "indices": "selects its own keys (indices)",
    "block_indices": "selects its own blocks (block_indices)",
    "head_mask": "masks heads (head_mask)",
    "alibi": "adds ALiBi slopes",
    "cache": "has a paged cache",
    "cu_seq_lens_q": "packs sequences without a batch (cu_seq_lens_q)",
    "cu_seq_lens_k": "packs sequences without a batch (cu_seq_lens_k)",
}


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
    """Attention of one layer, over its graph or dense.

    Parameters
    ----------
    module : Module
        The layer's attention module, with a `Site`.
    query : Tensor of shape (batch, heads, queries, head_dim)
    key, value : Tensor of shape (batch, kv_heads, keys, head_dim)
    attention_mask : Mask or Tensor, optional
        The result of `mask_function`, or a mask of two or four dimensions of the model or its user.
    dropout : float, default=0.0
        Dropout probability on attention weights.
    scaling : float, optional
        Factor of the scores, by default 1/√head_dim.
    is_causal : bool, optional
        By default the module's.
    position_bias : Tensor of shape (1 or batch, heads, queries, keys), optional
        Added to the scores (T5).

    Returns
    -------
    output : Tensor of shape (batch, queries, heads, head_dim)
    weights : None

    Raises
    ------
    ValueError
        If the model was not sparsified, or needs something that is not supported over a graph.
    """
    site: Site | None = getattr(module, SITE, None)
    if site is None:
        raise ValueError(
            f"{type(module).__name__} does not know its graph. Load the model by nip.from_pretrained, or give it to "
            "nip.sparsify, instead of attn_implementation='nip'."
        )
    for name, what in _UNSUPPORTED.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"{site.path} {what}: nip cannot attend over a graph so.")
    if kwargs.get("output_attentions"):
        raise ValueError("Attention over a graph does not return its weights: leave output_attentions off.")
    if site.graph is None:
        dense = attention_mask.dense() if isinstance(attention_mask, Mask) else attention_mask
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, dense, dropout, scaling, is_causal, position_bias=position_bias, **kwargs
        )
        return output
    mask, given = _as_mask(attention_mask, module, is_causal, query.shape[2], key.shape[2])
    # The graph of a text that grows is built once for the longest one.
    grows = mask.causal or bool(getattr(module, "is_causal", False)) or mask.has_cache
    out = _attend(site, site.graph.block_size, query, key, value, mask, given, position_bias, dropout, scaling, grows)
    if not torch.compiler.is_compiling():
        site.calls += 1
    return out.transpose(1, 2).contiguous(), None


def _as_mask(
    mask: Mask | Tensor | None, module: nn.Module, is_causal: bool | None, queries: int, keys: int
) -> tuple[Mask, Tensor | None]:
    """The mask, and a tensor of tokens × tokens if a `Mask` cannot express it: True or 0 for pairs that attend."""
    if isinstance(mask, Mask):
        return mask, None
    if mask is None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)  # as transformers has it
        return Mask(bool(causal), None, q_offset=keys - queries if causal else 0), None
    causal = bool(getattr(module, "is_causal", False))
    first = keys - queries if causal else 0  # the queries are the last tokens, after cached ones
    if mask.dim() == 2:
        return Mask(causal, mask.bool(), q_offset=first), None
    if first and not bool(_real(mask[..., -1]).any()):
        raise ValueError(
            f"The attention_mask of four dimensions hides the last of {keys} keys from every query: with a cache of "
            "fixed length let transformers make the mask, from one of two dimensions."
        )
    if mask.shape[1] == 1 and (mask.shape[2] == 1 or mask.stride(2) == 0) and _only_hides(mask[:, 0, 0]):
        return Mask(False, _real(mask[:, 0, 0]), q_offset=first), None  # the same for all queries: padding
    return Mask(False, None, special=True, q_offset=first), mask


def _real(mask: Tensor) -> Tensor:
    """True for the pairs that a mask lets attend, be it of bool or added to the scores."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _only_hides(mask: Tensor) -> bool:
    """Whether a mask only hides pairs: one that is added to the scores may also be a bias."""
    if mask.dtype == torch.bool:
        return True
    return not torch.compiler.is_compiling() and bool(((mask == 0) | ~_real(mask)).all())


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
            f"{site.path} has {queries} queries and {keys} keys: it is not self-attention. "
            f"Leave it dense: layers={{{site.index}: None}}."
        )
    if queries != keys or mask.special or mask.has_cache:
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
    """The graph of a layer for an input of `n_tokens`; `grows` as in `Site.graph_for`."""
    if torch.compiler.is_compiling():
        # torch.compile can read an attribute, but not use the result of an untraced call.
        _keep_graph(site, n_tokens, grows)
        return site.kept[n_tokens, grows]
    return site.graph_for(n_tokens, grows)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _keep_graph(site: Site, n_tokens: int, grows: bool) -> bool:
    site.kept[n_tokens, grows] = site.graph_for(n_tokens, grows)
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
    """Attention of some rows of the graph: with cached keys, or with a mask of tokens × tokens.

    Keys of blocks that no query attends to are dropped first.
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
            allowed = allowed & _real(given)
            added = given if added is None else added + given
    nothing = ~allowed.any(-1, keepdim=True)  # torch's softmax of such rows is NaN: let them attend, then zero them
    allowed = allowed | nothing
    weights = allowed if added is None else torch.where(allowed, added, -torch.inf).to(q.dtype)
    grouped = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, weights, dropout, scale=scaling, enable_gqa=grouped)
    return out.masked_fill(nothing, 0.0)


def register() -> None:
    """Register both functions; without a mask function transformers silently drops all masks."""
    AttentionInterface.register(NAME, attention_function)
    AttentionMaskInterface.register(NAME, mask_function)


register()
