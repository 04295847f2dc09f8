"""A cache of the memory of large results, which is reused after they are freed.

The system zeroes new memory page by page on first access: a fifth of the time of a long sequence. The cache contains
only freed memory, and at most `LIMIT` bytes.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1 << 18
"""Size in bytes below which torch's allocator is as fast."""

LIMIT = 1 << 30
"""Maximum size of the cache in bytes."""

_kept: dict[int, deque[mmap.mmap]] = {}  # by size; a deque's ends are safe from any thread


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Like `torch.empty` on the CPU, contiguous; a large tensor's memory returns to the cache with its last view."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if size < SMALLEST:
        return torch.empty(tuple(shape), dtype=dtype, device="cpu")
    size += -size % mmap.PAGESIZE
    try:
        memory = _kept[size].pop()
    except (KeyError, IndexError):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # private: not shared by a fork
    loan = np.frombuffer(memory, np.uint8)  # torch keeps this object as long as the storage lives
    weakref.finalize(loan, _give_back, memory, size).atexit = False
    return torch.frombuffer(loan, dtype=dtype, count=torch.Size(shape).numel()).view(tuple(shape))


def kept() -> int:
    """Current size of the cache in bytes."""
    return sum(size * len(each) for size, each in list(_kept.items()))


def release() -> None:
    """Return all cached memory to the system."""
    _kept.clear()


def _give_back(memory: mmap.mmap, size: int) -> None:
    if kept() + size <= LIMIT:
        _kept.setdefault(size, deque()).append(memory)
