"""The log of the original code: JSON lines with train_step_idx, loss, accu, best_accu, component and t."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from nip.atomic import replacing
from nip.lra.config import RunConfig
from nip.runs.folder import RunFolder, read_metrics


def write_original_log(folder: Path, config: RunConfig) -> Path:
    """Write ``{task}_{model}_output.log`` into the run folder, from its ``metrics.jsonl``.

    A line with component ``train`` contains means since the previous evaluation, one with ``dev`` or ``test`` an
    evaluation; ``best_accu`` is the component's best so far, ``t`` its seconds, and ``train_step_idx`` counts from 0.
    """
    path = folder / f"{config.task}_{config.model.replace('/', '-')}_output.log"
    rows = read_metrics(RunFolder(folder).metrics)
    with replacing(path) as file:
        file.writelines((json.dumps(line) + "\n").encode() for line in original_lines(rows))
    return path


def original_lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the log, from the rows of ``metrics.jsonl``.

    Examples
    --------
    >>> rows = [{"step": 1, "split": "train", "loss": 2.0, "accuracy": 0.25, "seconds": 1.0},
    ...         {"step": 2, "split": "train", "loss": 1.0, "accuracy": 0.75, "seconds": 2.0},
    ...         {"step": 2, "split": "dev", "loss": 1.5, "accuracy": 0.5, "seconds": 2.5}]
    >>> for line in original_lines(rows):
    ...     print(line)
    {'train_step_idx': 1, 'loss': 1.5, 'accu': 0.5, 'best_accu': 0.5, 'component': 'train', 't': 2.0}
    {'train_step_idx': 1, 'loss': 1.5, 'accu': 0.5, 'best_accu': 0.5, 'component': 'dev', 't': 0.5}
    """
    lines: list[dict[str, Any]] = []
    best: dict[str, float] = {}
    window: list[dict[str, Any]] = []
    clock = 0.0

    def add(component: str, members: list[dict[str, Any]]) -> None:
        nonlocal clock
        accuracy = fmean(row["accuracy"] for row in members)
        best[component] = max(best.get(component, 0.0), accuracy)
        lines.append(
            {
                "train_step_idx": members[-1]["step"] - 1,
                "loss": round(fmean(row["loss"] for row in members), 4),
                "accu": round(accuracy, 4),
                "best_accu": round(best[component], 4),
                "component": component,
                "t": round(members[-1]["seconds"] - clock, 4),
            }
        )
        clock = members[-1]["seconds"]

    for row in rows:
        if row["split"] == "train":
            window.append(row)
            continue
        if window:
            add("train", window)
            window = []
        add(row["split"], [row])
    return lines
