"""torch's dense attention with the pattern as a mask, for dense patterns and short inputs."""

from __future__ import annotations

import operator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nip.attention.arguments import Options
from nip.attention.layout import BlockLayout
from nip.attention.reference import allowed_pairs


def attend_dense(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention by `torch.nn.functional.scaled_dot_product_attention`, without bias and log-sum-exp.

    A complete pattern without token masks needs no mask at all.

    Parameters
    ----------
    q, k, v, layout, options
        As for `nip.attention.reference.attend_reference`.

    Returns
    -------
    (Tensor, None)
        The attention output, (batch, heads, tokens, head_dim).
    """
    with torch.autocast(q.device.type, enabled=False):
        return _attend(q, k, v, layout, options), None


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options) -> Tensor:
    # operator.index: a tensor under torch.jit.trace, variable under torch.compile, while torch's kernel needs a bool.
    grouped, scale = operator.index(q.shape[1]) != operator.index(k.shape[1]), options.scale
    # torch multiplies the −inf of forbidden pairs by the scale, so it must be positive. In half precision a change of
    # sign is exact, a product with the scale would be rounded before the scores are.
    if scale < 0:
        q, scale = -q, -scale
    elif scale == 0:
        q, scale = q * scale, 1.0
    if layout.complete and options.key_padding_mask is None and options.segment_ids is None:
        return scaled_dot_product_attention(
            q, k, v, None, options.dropout_p, is_causal=layout.causal, scale=scale, enable_gqa=grouped
        )
    if layout.complete and not layout.causal and options.segment_ids is None and options.key_padding_mask is not None:
        allowed = options.key_padding_mask[:, None, None, :]  # the same for all queries: no tokens × tokens mask
    else:
        allowed = allowed_pairs(layout, options, q.device)
    nothing = ~allowed.any(-1, keepdim=True)  # torch's kernels disagree on such rows: let them attend, then zero them
    out = scaled_dot_product_attention(q, k, v, allowed | nothing, options.dropout_p, scale=scale, enable_gqa=grouped)
    return out.masked_fill(nothing, 0.0)
