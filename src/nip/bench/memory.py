"""Measurements in separate processes, so that they do not affect each other; the peak memory of a call."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nip.runs.process import resident
from nip.runs.workers import run_module

_RESET = Path("/proc/self/clear_refs")


def in_own_process(module: str, job: Mapping[str, Any], what: str) -> float | None:
    """Run a module with a job as JSON in a separate process, and return the peak memory that it prints.

    Parameters
    ----------
    module : str
        Run as ``python -m MODULE JOB``; it prints the result of `high_water`.
    job : mapping
    what : str
        The measurement, for error messages.

    Returns
    -------
    float or None
        MiB; None if the system has no resettable high-water mark.

    Raises
    ------
    ValueError
        If the process runs out of memory or fails otherwise; the message contains the last line of its output.
    """
    return float(printed_by(module, job, f"Measuring the memory of {what}")) if _RESET.exists() else None


def printed_by(module: str, job: Mapping[str, Any], doing: str, **environment: str) -> str:
    """Run ``python -m MODULE JOB`` and return its standard output.

    Parameters
    ----------
    module : str
    job : mapping
        Passed as JSON.
    doing : str
        The activity, for error messages.
    **environment : str
        Additional environment variables.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the process fails; the message contains the activity and the last line of its output.
    """
    process = run_module(module, [json.dumps(job)], environment={**os.environ, **environment})
    if process.returncode:
        reason = process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"]
        raise ValueError(f"{doing} failed: {reason[-1]}")
    return process.stdout


def high_water(call: Callable[[], object]) -> int:
    """Increase of resident memory during the call, at its peak, in bytes."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # otherwise memory freed earlier would be reused without being counted
    _RESET.write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before
