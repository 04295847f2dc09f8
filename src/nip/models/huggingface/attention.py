"""The attention function registered with transformers under the name `nip`, together with its mask function."""

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
    "alibi": "adds ALiBi's slopes",
    "cache": "uses a paged cache",
    "cu_seq_lens_q": "packs sequences without a batch dimension (cu_seq_lens_q)",
    "cu_seq_lens_k": "packs sequences without a batch dimension (cu_seq_lens_k)",
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
    """Compute the attention of one layer over its graph, or dense attention if it has none.

    Parameters
    ----------
    module : Module
        The layer's attention module, with a `Site` from `nip.sparsify`.
    query : Tensor of shape (batch, heads, queries, head_dim)
    key, value : Tensor of shape (batch, kv_heads, keys, head_dim)
    attention_mask : Mask or Tensor, optional
        The output of `mask_function`, or a 2-D or 4-D mask from the model or the user.
    dropout : float, default=0.0
        Dropout probability on the attention weights.
    scaling : float, optional
        Factor on the scores; by default head_dim ** -0.5.
    is_causal : bool, optional
        Whether attention without a mask is causal; by default the module's `is_causal`.
    position_bias : Tensor of shape (1 or batch, heads, queries, keys), optional
        Added to the scores (T5).
    **kwargs
        Further arguments of transformers' attention functions.

    Returns
    -------
    output : Tensor of shape (batch, queries, heads, head_dim)
    weights : None

    Raises
    ------
    ValueError
        If the model was not sparsified, or an argument cannot be combined with a graph.
    """
    site: Site | None = getattr(module, SITE, None)
    if site is None:
        raise ValueError(
            f"{type(module).__name__} has no graph. Load the model with nip.from_pretrained or pass it to nip.sparsify "
            "instead of setting attn_implementation='nip'."
        )
    for name, feature in _UNSUPPORTED.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"{site.path} {feature}, which nip does not support.")
    if kwargs.get("output_attentions"):
        raise ValueError("Attention over a graph cannot return attention weights: do not set output_attentions.")
    if site.graph is None:
        dense = attention_mask.dense() if isinstance(attention_mask, Mask) else attention_mask
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, dense, dropout, scaling, is_causal, position_bias=position_bias, **kwargs
        )
        return attended
    mask, pairs = _to_mask(attention_mask, module, is_causal, query.shape[2], key.shape[2])
    # If the text grows, the graph is built once for the maximum length.
    grows = mask.causal or bool(getattr(module, "is_causal", False)) or mask.has_cache
    out = _attend(site, site.graph.block_size, query, key, value, mask, pairs, position_bias, dropout, scaling, grows)
    if not torch.compiler.is_compiling():
        site.calls += 1
    return out.transpose(1, 2).contiguous(), None


def _to_mask(
    mask: Mask | Tensor | None, module: nn.Module, is_causal: bool | None, queries: int, keys: int
) -> tuple[Mask, Tensor | None]:
    """Convert any mask to a `Mask` and, if it differs between queries, the 4-D tensor itself (bool or additive)."""
    if isinstance(mask, Mask):
        return mask, None
    if mask is None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)  # as in transformers
        return Mask(bool(causal), None, q_offset=keys - queries if causal else 0), None
    causal = bool(getattr(module, "is_causal", False))
    first = keys - queries if causal else 0  # with a cache, the queries are the newest tokens
    if mask.dim() == 2:
        return Mask(causal, mask.bool(), q_offset=first), None
    if first and not bool(_allowed(mask[..., -1]).any()):
        raise ValueError(
            f"The 4-D attention_mask hides the last of {keys} keys from every query: with a static cache, pass a 2-D "
            "mask and let transformers build the 4-D mask."
        )
    if mask.shape[1] == 1 and (mask.shape[2] == 1 or mask.stride(2) == 0) and _is_binary(mask[:, 0, 0]):
        return Mask(False, _allowed(mask[:, 0, 0]), q_offset=first), None  # the same for all queries: padding
    return Mask(False, None, special=True, q_offset=first), mask


def _allowed(mask: Tensor) -> Tensor:
    """Convert a boolean or additive mask to a boolean one, True where attention is allowed."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _is_binary(mask: Tensor) -> bool:
    """Whether a mask only allows or forbids pairs; an additive mask may also change the scores."""
    if mask.dtype == torch.bool:
        return True
    return not torch.compiler.is_compiling() and bool(((mask == 0) | ~_allowed(mask)).all())


def _attend(
    site: Site,
    block_size: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    pairs: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    scaling: float | None,
    grows: bool,
) -> Tensor:
    queries, keys = q.shape[2], k.shape[2]
    if queries != keys and not grows:
        raise ValueError(
            f"{site.path} has {queries} queries and {keys} keys, so it is not self-attention. "
            f"Leave it dense: layers={{{site.index}: None}}."
        )
    if queries != keys or mask.special or mask.has_cache:
        rows: Tensor = _attend_rows(site, q, k, v, mask, pairs, bias, dropout, scaling, grows)
        return rows
    if bias is not None:
        bias = bias.expand(-1, q.shape[1], -1, -1)
    padding = None if mask.padding is None else mask.padding.to(q.device).expand(q.shape[0], -1)
    segments, fill = mask.segments, -queries % site.pad_to if site.pad_to is not None and not grows else 0
    if fill:
        q, k, v = (pad(x, (0, 0, 0, fill)) for x in (q, k, v))
        real = torch.ones(q.shape[0], queries, dtype=torch.bool, device=q.device) if padding is None else padding
        padding = pad(real, (0, fill))
        segments = segments if segments is None else pad(segments, (0, fill))
        bias = bias if bias is None else pad(bias, (0, fill, 0, fill))
    graph = graph_of(site, operator.index(queries + fill), grows)
    width, scaling = v.shape[-1], q.shape[-1] ** -0.5 if scaling is None else scaling
    if width != q.shape[-1]:  # zero padding changes neither scores nor outputs
        q, k, v = (pad(x, (0, max(width, q.shape[-1]) - x.shape[-1])) for x in (q, k, v))
    out = attend(
        q, k, v, graph, block_size, key_padding_mask=padding, segment_ids=segments, bias=bias, causal=mask.causal,
        scale=scaling, dropout_p=dropout, backend=site.backend,
    )  # fmt: skip
    return out[:, :, :queries, :width]


def graph_of(site: Site, n_tokens: int, grows: bool) -> Pattern:
    """Return the graph of a layer for an input of `n_tokens`; see `Site.graph_for`.

    Parameters
    ----------
    site : Site
    n_tokens : int
    grows : bool
        Whether keys are added token by token, as in generation.
    """
    if torch.compiler.is_compiling():
        # torch.compile can read an object's attributes but not return a Pattern from an untraced call.
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
    pairs: Tensor | None,
    bias: Tensor | None,
    dropout: float,
    scaling: float | None,
    grows: bool,
) -> Tensor:
    """Compute attention for queries after cached keys, or with a mask that differs between queries.

    Keys in blocks that no query attends to are dropped first.
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
    if mask.special and pairs is None:
        allowed = allowed & mask.pairs().index_select(-1, chosen)
    elif mask.padding is not None:
        allowed = allowed & mask.padding.to(q.device).index_select(-1, chosen)[:, None, None]
    added = None if bias is None else bias.index_select(-1, chosen)
    if pairs is not None:
        pairs = pairs.expand(*pairs.shape[:3], last_key - first_key).index_select(-1, chosen)
        allowed = allowed & _allowed(pairs)
        if pairs.dtype != torch.bool:
            added = pairs if added is None else added + pairs
    empty = ~allowed.any(-1, keepdim=True)  # undefined in torch: such rows attend to everything and become 0 below
    allowed = allowed | empty
    weights = allowed if added is None else torch.where(allowed, added, -torch.inf).to(q.dtype)
    grouped = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, weights, dropout, scale=scaling, enable_gqa=grouped)
    return out.masked_fill(empty, 0.0)


def register() -> None:
    """Register both functions with transformers, which silently drops all masks if the mask function is missing."""
    AttentionInterface.register(NAME, attention_function)
    AttentionMaskInterface.register(NAME, mask_function)


register()
