"""Dense masked attention, written to be read: the oracle of every other backend.

It computes all tokens × tokens scores, so it needs the memory and time of dense attention whatever the pattern.
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

    Parameters and result as `nip.attention.dispatch.attend`. Half-precision inputs are computed in float32.
    """
    with torch.autocast(q.device.type, enabled=False):
        kind = torch.promote_types(q.dtype, torch.float32)
        group = q.shape[1] // k.shape[1]
        keys = k.to(kind).repeat_interleave(group, dim=1)
        values = v.to(kind).repeat_interleave(group, dim=1)

        scores = options.scale * (q.to(kind) @ keys.transpose(-1, -2))  # (batch, heads, tokens, tokens)
        if options.bias is not None:
            scores = scores + options.bias.to(kind)
        # A forbidden pair is cut off twice: from the softmax here, and by zeroing a row without any allowed pair below,
        # where softmax would be 0 / 0.
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
    """Which query may attend to which key: bool, True = yes, (1 or batch, 1, tokens, tokens)."""
    tokens, b = layout.n_tokens, layout.block_size
    blocks = torch.zeros(layout.n, layout.n, dtype=torch.bool, device=device)
    blocks[torch.tensor(layout.rows, device=device), torch.tensor(layout.indices, device=device)] = True
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
