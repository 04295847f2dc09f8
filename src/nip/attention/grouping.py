"""Groups of rows that attend to the same number of blocks and are computed together.

A row is one block of queries in one head of one sequence. Blocks of keys in which the row may attend to no token
(padding, other documents) are dropped first, so they cost nothing. Because rows are grouped by the number of remaining
blocks, a row that attends to everything does not make the others dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nip.attention.arguments import Options
from nip.attention.layout import BlockLayout


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows that attend to the same number of blocks, numbered over the flattened axes batch, heads and blocks."""

    queries: Tensor
    """(m,) ascending: (batch · heads + head) · n + i."""
    keys: Tensor
    """(m, d): (batch · kv_heads + kv_head) · n + j, ascending in each row."""
    partial: bool
    """Whether some attended block must be masked token by token."""
    triangle: bool
    """Whether the last block is the row's own in a causal layout, of which only the lower triangle is attended."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Key padding and segments in blocks, the last block padded."""

    real: Tensor | None
    """(1 or batch, n, b) bool: the key may be attended to."""
    segments: Tensor | None
    """(batch, n, b) integer."""


def block_mask(layout: BlockLayout, options: Options, device: torch.device) -> Mask:
    """Reshape the token masks into blocks; tokens that pad the last block are not real.

    Parameters
    ----------
    layout : BlockLayout
    options : Options
        Only its token masks are used.
    device : torch.device

    Returns
    -------
    Mask
    """
    fill = layout.n_padded - layout.n_tokens
    real = options.key_padding_mask
    if real is None and fill:
        real = torch.ones(1, layout.n_tokens, dtype=torch.bool, device=device)
    segments = options.segment_ids
    if real is not None:
        real = torch.nn.functional.pad(real, (0, fill)).view(-1, layout.n, layout.block_size)
    if segments is not None:
        # Padded with the last id: any other would add a segment to the last block.
        filled = torch.cat([segments, segments[:, -1:].expand(-1, fill)], dim=-1)
        segments = filled.view(-1, layout.n, layout.block_size)
    return Mask(real, segments)


def group_rows(
    layout: BlockLayout, options: Options, mask: Mask, batch: int, heads: int, kv_heads: int, device: torch.device
) -> list[RowGroup]:
    """Group all rows of all heads and sequences; rows with no allowed key are left out.

    Parameters
    ----------
    layout : BlockLayout
    options : Options
    mask : Mask
        The token masks of `options`, from `block_mask`.
    batch, heads, kv_heads : int
    device : torch.device

    Returns
    -------
    list of RowGroup
    """
    if options.key_padding_mask is None and options.segment_ids is None:
        return _groups_without_masks(layout, batch, heads, kv_heads, device)
    return _groups(layout, mask, batch, heads, kv_heads, device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # tensors made in inference mode could not be used in training later
def _groups_without_masks(
    layout: BlockLayout, batch: int, heads: int, kv_heads: int, device: torch.device
) -> list[RowGroup]:
    no_options = Options(scale=1.0)
    return _groups(layout, block_mask(layout, no_options, device), batch, heads, kv_heads, device)


def _groups(
    layout: BlockLayout, mask: Mask, batch: int, heads: int, kv_heads: int, device: torch.device
) -> list[RowGroup]:
    n = layout.n
    indptr = torch.as_tensor(layout.indptr.copy(), device=device)
    columns = torch.as_tensor(layout.indices.copy(), device=device)
    alive, partial = _block_pairs(layout, mask, columns, device)

    degrees = _row_sums(alive, indptr).flatten()  # (sequences · n,), sequences = 1 if all are equal
    masked = (_row_sums(alive & partial, indptr) > 0).flatten()
    sequence, entry = alive.nonzero(as_tuple=True)
    attended = sequence * n + columns[entry]
    starts = degrees.cumsum(0) - degrees

    own = columns == torch.as_tensor(layout.rows.copy(), device=device)
    triangle = (_row_sums(alive & own, indptr) > 0).flatten() & layout.causal
    kinds = 4 * degrees + 2 * masked + triangle
    groups = []
    for kind in torch.unique(kinds[degrees > 0]).tolist():
        rows = (kinds == kind).nonzero().squeeze(1)
        keys = attended[starts[rows, None] + torch.arange(kind // 4, device=device)]
        rows, keys = _all_heads(rows, keys, n, alive.shape[0], batch, heads, kv_heads)
        groups.append(RowGroup(rows, keys, partial=bool(kind & 2), triangle=bool(kind & 1)))
    return groups


def _block_pairs(layout: BlockLayout, mask: Mask, columns: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each entry of the layout: whether it may contain an allowed pair, and whether it needs a mask per token.

    Both (sequences, n_attended) bool.
    """
    alive = torch.ones(1, len(columns), dtype=torch.bool, device=device)
    partial = torch.zeros_like(alive)
    if mask.real is not None:
        alive = mask.real.any(-1)[:, columns]
        partial = ~mask.real.all(-1)[:, columns]
    if mask.segments is not None:
        rows = torch.as_tensor(layout.rows.copy(), device=device)
        low, high = mask.segments.amin(-1), mask.segments.amax(-1)
        # Disjoint ranges of ids share no id. Overlapping ranges may still share none; the mask then forbids every pair.
        alive = alive & (low[:, rows] <= high[:, columns]) & (high[:, rows] >= low[:, columns])
        mixed = low != high
        partial = partial | mixed[:, rows] | mixed[:, columns]
    return alive, partial


def _row_sums(entries: Tensor, indptr: Tensor) -> Tensor:
    """Count the true entries in each row: (sequences, n_attended) → (sequences, n)."""
    running = torch.nn.functional.pad(entries.cumsum(-1), (1, 0))
    return running[:, indptr[1:]] - running[:, indptr[:-1]]


def _all_heads(
    rows: Tensor, keys: Tensor, n: int, sequences: int, batch: int, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor]:
    """Repeat the rows of one head for every head and, if all sequences are equal, those of one for every sequence."""
    if sequences < batch:
        offsets = n * torch.arange(batch, device=rows.device)
        rows = (rows + offsets[:, None]).flatten()
        keys = (keys + offsets[:, None, None]).flatten(0, 1)
    head = torch.arange(heads, device=rows.device)
    queries = ((rows // n * heads + head[:, None]) * n + rows % n).flatten()
    kv_head = head // (heads // kv_heads)
    keys = ((keys // n * kv_heads + kv_head[:, None, None]) * n + keys % n).flatten(0, 1)
    # Ascending: consecutive rows share a head, whose keys and values stay in the CPU cache.
    queries, order = queries.sort()
    return queries, keys[order]
