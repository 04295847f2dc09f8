"""The process of a trial: what it runs under, what it has come to, how it is ended, what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from nip.processor import usable_cores
from nip.training.runs import read_metrics


def evaluations(metrics: Path, metric: str) -> list[float]:
    """What a run's evaluations on the development set have come to so far."""
    if not metrics.is_file():
        return []
    rows = [row for row in read_metrics(metrics) if row["split"] == "dev"]
    return [row[metric] for row in rows if row.get(metric) is not None]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a trial that is still at work, with all that it has started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, 9)
        process.kill()
        process.wait()
    if process.stdin:
        process.stdin.close()


def environment(workers: int, index: int) -> dict[str, str]:
    """Each worker with its share of the processors and, in turn, a GPU."""
    import torch

    environment = dict(os.environ)
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers)))
        devices = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices.split(",")[index % len(devices.split(","))]
    return environment


def value_of(folder: Path, metric: str) -> tuple[float | None, str | None]:
    """What a finished run has come to, or what is wrong."""
    measured = json.loads((folder / "result.json").read_text("utf-8"))["metrics"]
    value = measured.get(metric)
    if value is None:
        return None, f"the run has no metric {metric!r}; it has {', '.join(measured)}"
    if value != value:  # noqa: PLR0124 (not a number)
        return None, f"its {metric} is not a number"
    return float(value), None


def last_words(log: Path, start: int, code: int) -> str:
    """The last that a process said which has failed, behind the byte `start` of its log."""
    lines = log.read_bytes()[start:].decode("utf-8", "replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if code < 0:
        return f"ended by signal {-code}" + (f"; its last words: {said}" if said else "")
    return said or f"ended with code {code} and said nothing"


def leave_only_figures(folder: Path) -> None:
    """Delete what fills a disk: a run's checkpoints and weights."""
    drop(folder, "checkpoint-*", "*.safetensors", "*.safetensors.index.json", "*.bin")


def drop(folder: Path, *patterns: str) -> None:
    """Delete files and folders of these names from a run's folder."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
