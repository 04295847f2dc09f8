"""Measurements in a process of their own, so that none sees another's leftovers; the peak memory of a call."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nip.runs.process import resident

_RESET = Path("/proc/self/clear_refs")


def in_own_process(module: str, job: Mapping[str, Any], what: str) -> float | None:
    """MiB that a module prints when it is run with a job as JSON; None where memory has no resettable high-water mark.

    Parameters
    ----------
    module : str
        Run as ``python -m MODULE JOB``; it prints what `high_water` found.
    job : mapping
    what : str
        What is measured, for the message of an error.

    Raises
    ------
    ValueError
        If the process runs out of memory or fails otherwise; the message is the process's last line.
    """
    return float(printed_by(module, job, f"Measuring the memory of {what}")) if _RESET.exists() else None


def printed_by(module: str, job: Mapping[str, Any], doing: str, **environment: str) -> str:
    """What ``python -m MODULE JOB`` prints, with some variables of the environment set.

    Raises
    ------
    ValueError
        If the process fails: what it was doing, and its last line.
    """
    command = [sys.executable, "-m", module, json.dumps(job)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if process.returncode:
        reason = process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"]
        raise ValueError(f"{doing} failed: {reason[-1]}")
    return process.stdout


def high_water(call: Callable[[], object]) -> int:
    """Bytes of resident memory that the call reached above those before it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # memory freed earlier would be used again unseen
    _RESET.write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before
