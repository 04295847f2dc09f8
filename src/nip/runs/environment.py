"""Versions and hardware of a run, which decide whether it is reproduced bit for bit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nip.locations import source_checkout
from nip.processor import processor_name
from nip.runs.console import Console
from nip.runs.folder import read_json


def environment(device: torch.device, processes: int, distribution: str | None = None) -> dict[str, Any]:
    """Versions, processor, threads and device: the contents of ``environment.json``.

    Parameters
    ----------
    device : torch.device
    processes : int
    distribution : str, optional
        How several processes are connected, such as ``fsdp``.
    """
    packages = ("nip", "torch", "numpy", "accelerate", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "commit": commit(),
        **({} if distribution is None else {"distribution": distribution}),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two environments that may change the bits of a result, as phrases."""
    return [
        f"{key} was {before[key]!r} and is {value!r}"
        for key, value in now.items()
        if key not in ("commit", "cores", "nip") and key in before and before[key] != value
    ]


def warn_of_changes(path: Path, here: Mapping[str, Any], console: Console) -> None:
    """Warn where a run resumes in another environment than ``environment.json`` at `path` describes.

    Parameters
    ----------
    path : Path
        The ``environment.json`` of the start before; nothing is compared if it is missing.
    here : mapping
        As `environment` returns it.
    console : Console
    """
    if path.is_file():
        changed = changes(read_json(path), here)
        if changed:
            console.say(f"Warning: {'; '.join(changed)}. The run resumes, but its last bits may differ.")


def commit() -> str | None:
    """The commit of the source checkout that is imported, with ``-dirty`` if files differ; None without a checkout."""
    checkout = source_checkout()
    if checkout is None or not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
