"""Keeping freed memory: on Linux a step otherwise spends much of its time on fresh pages."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed, for the rest of the process; whether it did.

    By default every tensor above 32 MiB is mapped from the kernel and given back, so each step's activations are
    zeroed page by page anew: measured, that makes elementwise operations up to twenty times slower. The price is that
    the process keeps its largest size until it ends. Other platforms and allocators are left as they are.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries than glibc have none
    if mallopt is None:
        return False
    return all(
        mallopt(name, value) == 1 for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20))
    )
