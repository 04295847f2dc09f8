"""`nip doctor`: what is installed, what is missing, and how to install it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

import typer

from nip.cli.extras import EXTRAS
from nip.cli.options import Json
from nip.cli.output import print_json
from nip.processor import processor_flags, processor_name


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("doctor", rich_help_panel="Tools")(doctor_command)


def doctor_command(as_json: Json = False) -> None:
    """Print what works on this machine, what does not, and how to fix it.

    Example: nip doctor
    """
    found = examine()
    if as_json:
        print_json(found)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for key in ("nip", "python", "platform", "processor", "instruction_sets", "cores", "memory_gib", "folders"):
        value = found[key]
        if isinstance(value, dict):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        table.add_row(
            f"[bold]{key.replace('_', ' ')}[/bold]", ", ".join(value) if isinstance(value, list) else str(value)
        )
    console.print(table)
    parts = Table(title="Components", title_justify="left", header_style="bold")
    for heading in ("component", "works", "purpose, or how to install it"):
        parts.add_column(heading)
    for part in found["extras"]:
        parts.add_row(
            part["name"], part["version"] or "no", part["purpose"] if part["version"] else escape(part["advice"])
        )
    for choice in found["auto"]:
        parts.add_row(
            f"auto on {choice['device']}", choice["backend"], escape(f"{choice['problem']}: {choice['reason']}")
        )
    for backend in found["backends"]:
        parts.add_row(f"backend {backend['name']}", "yes" if backend["available"] else "no", escape(backend["reason"]))
    console.print(parts)


def examine() -> dict[str, Any]:
    """What the command prints, as JSON values."""
    import nip

    extras = []
    for name, extra in EXTRAS.items():
        package, purpose = extra.packages[0], extra.purpose
        version = importlib.metadata.version(package) if importlib.util.find_spec(package) else None
        advice = f"to {purpose}: pip install 'nip[{name}]'"
        extras.append({"name": name, "package": package, "version": version, "purpose": purpose, "advice": advice})
    backends, auto = [], []
    torch_threads = None
    if importlib.util.find_spec("torch"):
        import torch

        torch_threads = torch.get_num_threads()
        backends = [{"name": b.name, "available": b.available, "reason": b.reason} for b in nip.backends()]
        auto = [choice_on("cpu", "float32"), *([choice_on("cuda", "bfloat16")] if torch.cuda.is_available() else [])]
    from nip.locations import data_folder, runs_folder

    return {
        "nip": nip.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "instruction_sets": _instruction_sets(),
        "cores": os.cpu_count(),
        "torch_threads": torch_threads,
        "memory_gib": _memory_gib(),
        "folders": {"data": str(data_folder()), "runs": str(runs_folder())},
        "extras": extras,
        "auto": auto,
        "backends": backends,
    }


def choice_on(device: str, dtype: str) -> dict[str, str]:
    """The backend that ``backend="auto"`` selects on that device for training on a typical problem, and why."""
    import torch

    from nip.attention import explain
    from nip.graphs import hypercube

    q = torch.empty(4, 4, 2048, 32, dtype=getattr(torch, dtype), device=device, requires_grad=True)
    choice = explain(q, q, q, hypercube(128))
    problem = f"training on 4 × 2,048 tokens, hypercube in blocks of 16, {dtype}"
    return {"device": device, "problem": problem, "backend": choice.backend, "reason": choice.reason}


def _instruction_sets() -> list[str]:
    names = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    available = processor_flags()
    return [name for name in names if name in available]


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, AttributeError):  # not POSIX
        return None
