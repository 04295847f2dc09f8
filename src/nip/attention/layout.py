"""The block layout of a sequence: which block of queries attends to which blocks of keys.

The axes of this package, everywhere in this order:

==========  ====================================================================
batch       sequences
heads       heads of the queries; kv_heads divides it (grouped-query attention)
tokens      query or key positions: the same number
head_dim    width of one head
n           blocks, ⌈tokens / block_size⌉: the vertices of the pattern
b           block_size
i, j        a block of queries, a block of keys
d           blocks that a row attends to, including its own
m           rows (one block of queries, in one head of one sequence) in a batch
==========  ====================================================================

Padding rule: if the length is not a multiple of the block size, the last block is padded with tokens that no token
attends to and whose results are dropped.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nip.graphs import Pattern, causal
from nip.graphs.pattern import check_int


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Compressed sparse rows over blocks, each row including its own block.

    Parameters
    ----------
    n_tokens, block_size : int
        Length of the sequence and of a block.
    indptr : ndarray of shape (n + 1,)
        Row i is ``indices[indptr[i]:indptr[i + 1]]``.
    indices : ndarray of shape (n_attended,)
        Attended blocks, ascending in each row, including the row's own block.
    causal : bool
        A token attends to itself and earlier tokens only: rows end with their own block, of which only the lower
        triangle is attended.
    """

    n_tokens: int
    block_size: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]
    causal: bool
    # Attributes, not properties: torch.compile reads attributes of a constant, but cannot call its methods.
    n: int = field(init=False)
    """Number of blocks."""
    rows: NDArray[np.int64] = field(init=False, repr=False)
    """The row of each entry of `indices`."""
    n_padded: int = field(init=False)
    """Number of tokens including the padding of the last block."""
    complete: bool = field(init=False)
    """Whether every token attends to every other (causal: to every earlier one)."""
    density: float = field(init=False)
    """Attended blocks over n²."""
    key: int = field(init=False)
    """A unique integer in this process, with which `layout_of` finds the layout."""

    def __post_init__(self) -> None:
        n, attended = len(self.indptr) - 1, self.indices.size
        rows = np.repeat(np.arange(n), np.diff(self.indptr))
        rows.setflags(write=False)
        derived = {
            "n": n,
            "rows": rows,
            "n_padded": n * self.block_size,
            "complete": attended == (n * (n + 1) // 2 if self.causal else n**2),
            "density": attended / n**2,
            "key": next(_KEYS),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        _LAYOUTS[self.key] = self


_KEYS = itertools.count()
_LAYOUTS: weakref.WeakValueDictionary[int, BlockLayout] = weakref.WeakValueDictionary()


def layout_of(key: int) -> BlockLayout:
    """The layout with that `BlockLayout.key`: torch.compile can pass an integer, but not a BlockLayout."""
    return _LAYOUTS[key]


@lru_cache(maxsize=64, typed=True)  # typed: a block size of 16.0 must not pass for 16
def block_layout(pattern: Pattern, block_size: int, n_tokens: int, *, is_causal: bool = False) -> BlockLayout:
    """Build the layout of a pattern on a sequence.

    Parameters
    ----------
    pattern : Pattern
        Its n must be ⌈n_tokens / block_size⌉.
    block_size, n_tokens : int
        At least 1.
    is_causal : bool, default=False
        Make the pattern causal if it is not already.

    Returns
    -------
    BlockLayout

    Raises
    ------
    ValueError
        If the pattern has a different number of blocks.

    Examples
    --------
    >>> from nip.graphs import local_window
    >>> layout = block_layout(local_window(3), 16, 40)
    >>> layout.n_padded, layout.indices.tolist()
    (48, [0, 1, 0, 1, 2, 1, 2])
    """
    block_size = check_int("block_size", block_size, "attend", minimum=1)
    n_tokens = check_int("n_tokens", n_tokens, "attend", minimum=1)
    if not isinstance(pattern, Pattern):
        raise ValueError(f"The 'pattern' parameter of attend must be a nip.Pattern. Got {pattern!r} instead.")
    needed = -(-n_tokens // block_size)
    if pattern.n != needed:
        raise ValueError(
            f"{n_tokens} tokens in blocks of {block_size} need a pattern of n = {needed}. "
            f"Got {pattern.name!r} with n = {pattern.n} instead."
        )
    if is_causal and not pattern.causal:
        pattern = causal(pattern)
    n = pattern.n
    rows = np.concatenate([pattern.edge_rows, np.arange(n)])
    columns = np.concatenate([pattern.indices, np.arange(n)])
    order = np.lexsort((columns, rows))
    indptr = pattern.indptr + np.arange(n + 1)
    indices = columns[order]
    indptr.setflags(write=False)
    indices.setflags(write=False)
    return BlockLayout(n_tokens, block_size, indptr, indices, pattern.causal)
