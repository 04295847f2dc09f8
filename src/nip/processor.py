"""Properties of the CPU, as reported by the operating system."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_DESCRIPTION = Path("/proc/cpuinfo")


def processor_field(field: str) -> str | None:
    """The value of a field of ``/proc/cpuinfo``, such as ``flags``, for the first CPU; None if there is none."""
    try:
        lines = _DESCRIPTION.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == field), None)


def processor_name() -> str:
    """The CPU model."""
    return processor_field("model name") or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Instruction-set extensions by their Linux names, such as ``avx2``; empty if the system does not list them."""
    return frozenset((processor_field("flags") or processor_field("Features") or "").split())


def computes_bf16() -> bool:
    """Whether the CPU has bfloat16 multiply instructions; without them bfloat16 is far slower than fp32."""
    return not processor_flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def usable_cores() -> int:
    """Number of cores that this process may use; if the system does not report it, the number of cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
