"""What a training process asks of the system it runs on; none of it changes a number."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")
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


def spin_briefly(turns: int = 3000) -> None:
    """Let idle OpenMP threads spin for microseconds only. To be called before torch is imported, later it does nothing.

    A step has thousands of parallel regions, and at the end of each the threads wait for one another: GNU's library by
    default spins for milliseconds. Where another process wants the same cores, the thread that is waited for cannot run
    while the others spin, and a step becomes many times slower: thirty times was measured, with two runs on two cores.
    Never to spin, though, costs half of the speed where the cores are free; three thousand turns cost none of it, and a
    factor of two or three where they are not. Where Python stands between short calls, as in a benchmark of attention
    by itself, threads that sleep meanwhile cost a fifth, and ten times as many turns do not. What the environment says
    comes first.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        os.environ["GOMP_SPINCOUNT"] = str(turns)


def peak_mib(device: torch.device) -> float | None:
    """The most memory that this process has held so far, in MiB: of a GPU what torch took there, else resident memory.

    None where the system does not tell (anything but Linux, without a GPU).
    """
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    # not getrusage's: on Linux that begins with what the process had that started this one
    return round(resident("VmHWM") / 2**20, 1) if STATUS.exists() else None


def resident(field: str) -> int:
    """Bytes of memory that this process holds (``VmRSS``) or has held at most (``VmHWM``), as Linux tells."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
