"""Tables of blocks, and panels gathered from them.

A table is (batch · heads · n, b · width): one block of tokens per row, so that gathering a block copies a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nip.attention.layout import BlockLayout


def to_table(x: Tensor, layout: BlockLayout, dtype: torch.dtype) -> Tensor:
    """Reshape a tensor into a table of blocks, the last one padded with zeros.

    Parameters
    ----------
    x : Tensor of shape (batch, heads, tokens, width)
    layout : BlockLayout
    dtype : torch.dtype
        Of the table.

    Returns
    -------
    Tensor of shape (batch · heads · n, b · width)
    """
    fill = layout.n_padded - layout.n_tokens
    if fill:
        x = torch.nn.functional.pad(x, (0, 0, 0, fill))
    return x.to(dtype).reshape(-1, layout.block_size * x.shape[-1])


def from_table(table: Tensor, layout: BlockLayout, batch: int, width: int, dtype: torch.dtype) -> Tensor:
    """Reshape a table of blocks back into a tensor, without the padding.

    Parameters
    ----------
    table : Tensor of shape (batch · heads · n, b · width)
    layout : BlockLayout
    batch, width : int
    dtype : torch.dtype
        Of the result.

    Returns
    -------
    Tensor of shape (batch, heads, tokens, width)
    """
    return table.view(batch, -1, layout.n_padded, width)[:, :, : layout.n_tokens].to(dtype)


def bias_blocks(bias: Tensor, layout: BlockLayout) -> Tensor:
    """View (1 or batch, heads, tokens, tokens) as (1 or batch, heads, n, n, b, b)."""
    fill = layout.n_padded - layout.n_tokens
    if fill:
        bias = torch.nn.functional.pad(bias, (0, fill, 0, fill))
    n, b = layout.n, layout.block_size
    return bias.reshape(*bias.shape[:2], n, b, n, b).transpose(3, 4)


def from_bias_blocks(blocks: Tensor, layout: BlockLayout) -> Tensor:
    """Turn (…, n, n, b, b) back into (…, tokens, tokens)."""
    padded = blocks.transpose(-3, -2).reshape(*blocks.shape[:-4], layout.n_padded, layout.n_padded)
    return padded[..., : layout.n_tokens, : layout.n_tokens]


class Buffers:
    """Memory reused by all chunks: newly mapped pages for each would cost more than the arithmetic."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialized tensor of that shape; taking the same name again reuses its memory."""
        size = torch.Size(shape).numel()
        if name not in self._flat or self._flat[name].numel() < size:
            self._flat[name] = torch.empty(size, dtype=self._dtype, device=self._device)
        return self._flat[name][:size].view(shape)

    def gather(self, name: str, table: Tensor, index: Tensor, width: int) -> Tensor:
        """Concatenate blocks of a table into panels.

        Parameters
        ----------
        name : str
            The buffer that receives them.
        table : Tensor of shape (rows, b · width)
        index : integer Tensor of shape (m, d) or (m,)
            Rows of the table.
        width : int

        Returns
        -------
        Tensor of shape (m, d · b, width)
        """
        flat = self.take(name, index.numel(), table.shape[1])
        torch.index_select(table, 0, index.flatten(), out=flat)
        return flat.view(len(index), -1, width)
