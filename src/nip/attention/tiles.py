"""The tiles of 128 × 128 tokens of a layout, the smallest unit that FlexAttention skips.

A tile is computed if any pair of tokens in it is attended to. Small blocks fill their tiles only partly: at 16,384
tokens a hypercube of blocks of 16 is six times denser in tiles than in blocks.
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
    """The tiles of a layout with at least one attended pair.

    Parameters
    ----------
    n : int
        Tiles per side, ⌈tokens / 128⌉.
    rows, columns : ndarray of shape (n_tiles,)
        The position of each tile, ascending by row, then by column.
    full : bool ndarray of shape (n_tiles,)
        Whether every query in the tile, except those beyond the end of the sequence, attends to all 128 keys.
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
    O(attended blocks · tiles per block²) time, O(attended blocks + n²) memory; FlexAttention's own tables take O(n²).

    Examples
    --------
    >>> from nip.attention.layout import block_layout
    >>> from nip.graphs import hypercube
    >>> layout = block_layout(hypercube(64), 16, 1024)
    >>> round(layout.density, 3), tiling(layout).density
    (0.109, 0.5)
    """
    n = -(-layout.n_tokens // TILE)
    pairs = np.zeros(n * n, dtype=np.int64)  # attended pairs of tokens per tile
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
    """For the first tile that each block overlaps, the second, …: the tile and the block's number of tokens in it."""
    start = blocks * layout.block_size
    end = np.minimum(start + layout.block_size, layout.n_tokens)
    most = (layout.block_size + TILE - 2) // TILE + 1
    cuts = []
    for step in range(most):
        tile = start // TILE + step
        cuts.append((tile, np.minimum(end, (tile + 1) * TILE) - np.maximum(start, tile * TILE)))
    return cuts


def table(rows: NDArray[np.int64], columns: NDArray[np.int64], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Convert a list of tiles to FlexAttention's format.

    Parameters
    ----------
    rows, columns : ndarray of shape (n_tiles,)
        The position of each tile, in any order.
    n : int
        Tiles per side.

    Returns
    -------
    counts : ndarray of shape (n,)
        Number of tiles in each row.
    indices : ndarray of shape (n, n)
        The columns of a row's tiles, ascending, first in each row.
    """
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    counts = np.bincount(rows, minlength=n)
    indices = np.zeros((n, n), dtype=np.int32)
    indices[rows, np.arange(rows.size) - (np.cumsum(counts) - counts)[rows]] = columns
    return counts.astype(np.int32), indices


def bitmap(layout: BlockLayout, length: int) -> NDArray[np.uint8]:
    """The attended pairs of blocks as bits: block j of row i is bit j % 8 of byte [i, j // 8].

    Blocks that pad the sequence to `length` are zero.
    """
    blocks = -(-length // layout.block_size)
    width = -(-blocks // 8)
    bits = np.zeros(blocks * width, dtype=np.uint8)
    # No pair occurs twice, so adding a bit sets it.
    np.add.at(bits, layout.rows * width + layout.indices // 8, (1 << layout.indices % 8).astype(np.uint8))
    return bits.reshape(blocks, width)


def table_bytes(layout: BlockLayout, length: int) -> int:
    """Bytes of the four tables of `table` and the bits of `bitmap` for a layout padded to a length."""
    tiles, blocks = length // TILE, -(-length // layout.block_size)
    return 4 * 4 * tiles * (tiles + 1) + blocks * -(-blocks // 8)
