"""Peak memory of one call, measured in a process of its own so that no measurement sees another's leftovers."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nip.training.process import resident

if TYPE_CHECKING:
    from nip.bench.rows import Case

_RESET = Path("/proc/self/clear_refs")


def peak_mib(case: Case, backend: str, direction: str, threads: int) -> float | None:
    """Largest resident memory during the call above that before it, inputs not counted, results and gradients counted.

    None where the system keeps no resettable high-water mark (anything but Linux).

    Raises
    ------
    ValueError
        If the process runs out of memory or fails otherwise; the message is the process's last line.
    """
    job = {"case": asdict(case), "backend": backend, "direction": direction, "threads": threads}
    return in_own_process("nip.bench.memory", job, f"{backend} at {case.n_tokens} tokens")


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


def _main(job: str) -> None:
    import torch

    from nip.bench.attention import prepare
    from nip.bench.peers import PEERS
    from nip.bench.rows import Case

    request = json.loads(job)
    torch.set_num_threads(request["threads"])
    case = Case(**request["case"])
    backend, direction = request["backend"], request["direction"]
    call = prepare(case, backend, direction)
    if backend in PEERS:  # some are compiled for a size
        call()
    else:
        small = Case(**{**request["case"], "n_tokens": 2 * case.block_size, "batch": 1})
        prepare(small, backend, direction)()  # libraries and threads set themselves up
    print(high_water(call) / 2**20)


if __name__ == "__main__":
    _main(sys.argv[1])
