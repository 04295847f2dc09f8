"""The processor, as the system describes it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_DESCRIPTION = Path("/proc/cpuinfo")


def processor_field(field: str) -> str | None:
    """What Linux says of the first processor under that name, such as ``flags``; None if it says nothing."""
    try:
        lines = _DESCRIPTION.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == field), None)


def processor_name() -> str:
    """The processor's type."""
    return processor_field("model name") or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """What the processor computes beyond its basis, by Linux's names such as ``avx2``; empty if Linux does not say."""
    return frozenset((processor_field("flags") or processor_field("Features") or "").split())


def computes_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself: elsewhere it is far slower than 32 bits."""
    return not processor_flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def usable_cores() -> int:
    """How many this process may use, where the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
