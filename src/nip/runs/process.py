"""Memory and thread settings of a training process; none of them changes a number."""

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
    """Make glibc's allocator keep freed memory for the rest of the process; returns whether it does.

    By default every tensor above 32 MiB is mapped from the kernel and unmapped again, so the kernel zeroes the pages of
    each step's activations anew: measured, that makes elementwise operations up to twenty times slower. The cost is
    that the process keeps its peak size until it ends. Other platforms and allocators are unchanged.
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
    """Make idle OpenMP threads spin for microseconds only; has an effect only before torch is imported.

    A step has thousands of parallel regions, and at the end of each the threads wait for the slowest. GNU's OpenMP
    spins for milliseconds by default. If another process needs the same cores, the slowest thread cannot run while the
    others spin: a step became thirty times slower with two runs on two cores. Disabling spinning halves throughput on
    idle cores; 3,000 turns cost nothing there, and a factor of two or three on busy ones. Where Python runs between
    short calls, as in a benchmark of attention alone, sleeping threads cost a fifth, and 30,000 turns do not. Variables
    that are already set in the environment have priority.

    Parameters
    ----------
    turns : int, default=3000
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        os.environ["GOMP_SPINCOUNT"] = str(turns)


def peak_mib(device: torch.device) -> float | None:
    """The peak memory of this process in MiB: on a GPU what torch allocated there, else resident memory.

    None where it is not known (without a GPU, on anything but Linux).
    """
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    # not getrusage's: on Linux that starts at the memory of the parent process
    return round(resident("VmHWM") / 2**20, 1) if STATUS.exists() else None


def resident(field: str) -> int:
    """Resident memory of this process in bytes, now (``VmRSS``) or at its peak (``VmHWM``), from Linux's ``/proc``."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
