"""Description of the machine on which a measurement was made."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import torch

from nip.processor import processor_name, usable_cores


@dataclass(frozen=True)
class Machine:
    """The machine and software of a measurement."""

    processor: str
    """The CPU model, the number of cores that this process may use, and the instruction set that torch uses."""
    threads: int
    torch: str
    date: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.processor}, {threads}, torch {self.torch}, {self.date}"


def this_machine() -> Machine:
    """Describe the CPU and the software of a measurement."""
    capability = torch.backends.cpu.get_cpu_capability()
    return Machine(
        processor=f"{processor_name()}, {usable_cores()} vCPU, {capability}",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
