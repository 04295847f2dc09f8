"""A layout seen in tiles of 128 × 128 tokens, the smallest piece that FlexAttention skips.

A tile is computed if any pair of tokens in it is attended to. Small blocks leave holes in their tiles: at 16,384 tokens
a hypercube of blocks of 16 is six times denser in tiles than in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nip.attention.layout import BlockLayout

TILE = 128


@dataclass(frozen=True, eq=False)
class Tiling:
    """The tiles of a layout in which anything is attended to.

    Parameters
    ----------
    n : int
        Tiles on a side, ⌈tokens / 128⌉.
    rows, columns : ndarray of shape (n_tiles,)
        Where each tile stands, ascending by row, then by column.
    full : bool ndarray of shape (n_tiles,)
        Every query in it, those beyond the end of the sequence left out, attends to all 128 keys.
    """

    n: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    full: NDArray[np.bool_]

    @property
    def density(self) -> float:
        """Tiles to compute over n²."""
        return self.rows.size / self.n**2


@lru_cache(maxsize=64)
def tiling(layout: BlockLayout) -> Tiling:
    """Find the tiles of a layout.

    Notes
    -----
    O(attended blocks · tiles a block meets²) time, O(attended blocks + n²) memory; FlexAttention's own tables have n².

    Examples
    --------
    >>> from nip.attention.layout import block_layout
    >>> from nip.graphs import hypercube
    >>> layout = block_layout(hypercube(64), 16, 1024)
    >>> round(layout.density, 3), tiling(layout).density
    (0.109, 0.5)
    """
    n = -(-layout.n_tokens // TILE)
    pairs = np.zeros(n * n, dtype=np.int64)  # of tokens that attend, tile by tile
    queries, keys = layout.rows, layout.indices
    for query_tile, query_tokens in _cuts(layout, queries):
        for key_tile, key_tokens in _cuts(layout, keys):
            some = (query_tokens > 0) & (key_tokens > 0)
            tiles = query_tile[some] * n + key_tile[some]
            tokens = (query_tokens * key_tokens)[some]
            pairs += np.bincount(tiles, weights=tokens, minlength=n * n).astype(np.int64)
    grid = pairs.reshape(n, n)
    if layout.causal:
        grid = np.tril(grid)
    rows, columns = grid.nonzero()
    full = grid[rows, columns] == TILE * np.minimum(TILE, layout.n_tokens - TILE * rows)
    if layout.causal:
        full &= rows > columns
    return Tiling(n, rows, columns, full)


def _cuts(layout: BlockLayout, blocks: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For the first tile that each block meets, the second, …: that tile, and how many of the block's tokens it has."""
    start = blocks * layout.block_size
    end = np.minimum(start + layout.block_size, layout.n_tokens)
    most = (layout.block_size + TILE - 2) // TILE + 1
    cuts = []
    for step in range(most):
        tile = start // TILE + step
        cuts.append((tile, np.minimum(end, (tile + 1) * TILE) - np.maximum(start, tile * TILE)))
    return cuts


def table(rows: NDArray[np.int64], columns: NDArray[np.int64], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Turn a list of tiles into FlexAttention's form: how many in each row (n,), and those first in each row (n, n)."""
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    counts = np.bincount(rows, minlength=n)
    indices = np.zeros((n, n), dtype=np.int32)
    indices[rows, np.arange(rows.size) - (np.cumsum(counts) - counts)[rows]] = columns
    return counts.astype(np.int32), indices


def bitmap(layout: BlockLayout, length: int) -> NDArray[np.uint8]:
    """Which pairs of blocks attend, a bit each: block j of row i is bit j % 8 of byte [i, j // 8].

    Zeros follow for the blocks that fill up the sequence to that length.
    """
    blocks = -(-length // layout.block_size)
    width = -(-blocks // 8)
    bits = np.zeros(blocks * width, dtype=np.uint8)
    # No pair is listed twice, so that adding a bit sets it.
    np.add.at(bits, layout.rows * width + layout.indices // 8, (1 << layout.indices % 8).astype(np.uint8))
    return bits.reshape(blocks, width)


def table_bytes(layout: BlockLayout, length: int) -> int:
    """Bytes of all that `table` and `bitmap` make for a layout filled up to a length: four tables, and the bits."""
    tiles, blocks = length // TILE, -(-length // layout.block_size)
    return 4 * 4 * tiles * (tiles + 1) + blocks * -(-blocks // 8)
