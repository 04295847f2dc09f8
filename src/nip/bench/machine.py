"""On what a measurement was made: without it a time says nothing."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

import torch

from nip.processor import processor_name


@dataclass(frozen=True)
class Machine:
    """What stands beside every measured number."""

    processor: str
    """Its name, cores that this process may use, and the instruction set that torch uses on it."""
    threads: int
    torch: str
    date: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.processor}, {threads}, torch {self.torch}, {self.date}"


def this_machine() -> Machine:
    """Describe the processor and the software that measure."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    capability = torch.backends.cpu.get_cpu_capability()
    return Machine(
        processor=f"{processor_name()}, {cores} vCPU, {capability}",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
