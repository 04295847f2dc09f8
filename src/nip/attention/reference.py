"""Dense masked attention, written for readability: the oracle of every other backend.

It computes all tokens × tokens scores, so it needs the memory and time of dense attention for any pattern.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nip.attention.arguments import Options
from nip.attention.layout import BlockLayout


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention over the allowed pairs; a query with none gets zeros and a log-sum-exp of −inf.

    Half-precision inputs are computed in float32.

    Parameters
    ----------
    q : Tensor of shape (batch, heads, tokens, head_dim)
    k, v : Tensor of shape (batch, kv_heads, tokens, head_dim)
    layout : BlockLayout
        The pattern in blocks.
    options : Options
        The other arguments of `nip.attention.dispatch.attend`.

    Returns
    -------
    out : Tensor of shape (batch, heads, tokens, head_dim)
    lse : Tensor of shape (batch, heads, tokens), or None
        The log-sum-exp of the scores, if ``options.return_lse``.
    """
    with torch.autocast(q.device.type, enabled=False):
        kind = torch.promote_types(q.dtype, torch.float32)
        group = q.shape[1] // k.shape[1]
        keys = k.to(kind).repeat_interleave(group, dim=1)
        values = v.to(kind).repeat_interleave(group, dim=1)

        scores = options.scale * (q.to(kind) @ keys.transpose(-1, -2))  # (batch, heads, tokens, tokens)
        if options.bias is not None:
            scores = scores + options.bias.to(kind)
        # Forbidden pairs get −inf here; a row without any allowed pair, for which softmax gives 0 / 0, is zeroed below.
        scores = scores.masked_fill(~allowed_pairs(layout, options, q.device), -torch.inf)
        nothing = (scores == -torch.inf).all(-1, keepdim=True)
        probabilities = scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)

        dropped = torch.dropout(probabilities, options.dropout_p, train=True)
        out = (dropped @ values).to(q.dtype)
        if not options.return_lse:
            return out, None
        lse = scores.masked_fill(nothing, 0.0).logsumexp(-1).masked_fill(nothing.squeeze(-1), -torch.inf)
        return out, lse


def allowed_pairs(layout: BlockLayout, options: Options, device: torch.device) -> Tensor:
    """The mask of the pairs that a query may attend to.

    Parameters
    ----------
    layout : BlockLayout
    options : Options
        Only its token masks are used.
    device : torch.device

    Returns
    -------
    bool Tensor of shape (1 or batch, 1, tokens, tokens)
        True for allowed pairs.
    """
    tokens, b = layout.n_tokens, layout.block_size
    blocks = torch.zeros(layout.n, layout.n, dtype=torch.bool, device=device)
    blocks[
        torch.as_tensor(layout.rows.copy(), device=device), torch.as_tensor(layout.indices.copy(), device=device)
    ] = True
    allowed = blocks.repeat_interleave(b, 0).repeat_interleave(b, 1)[:tokens, :tokens]
    if layout.causal:
        allowed = allowed.tril()
    allowed = allowed[None, None]
    if options.key_padding_mask is not None:
        allowed = allowed & options.key_padding_mask[:, None, None, :]
    if options.segment_ids is not None:
        ids = options.segment_ids
        allowed = allowed & (ids[:, None, :, None] == ids[:, None, None, :])
    return allowed
