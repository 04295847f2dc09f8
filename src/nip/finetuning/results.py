"""What came of a run: ``result.json``, ``run.json``, and the words on the console."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from nip.finetuning.arguments import Command
from nip.finetuning.settings import decisive
from nip.finetuning.setup import Setup
from nip.training.outcome import learnt, wilson_interval
from nip.training.process import peak_mib
from nip.training.runs import read_metrics


def outcome(
    command: Command, setup: Setup, trained: Mapping[str, Any], measured: Mapping[str, float], metrics: Path
) -> dict[str, Any]:
    """What ``result.json`` says."""
    rows = read_metrics(metrics) if metrics.is_file() and command.training.do_train else []
    steps = [row for row in rows if row["split"] == "train"]
    losses = [row["loss"] for row in steps if row["loss"] is not None]  # a loss that is no number is null
    developed = [row[setup.metric] for row in rows if row["split"] == "dev" and row.get(setup.metric) is not None]
    more = dict(setup.describe(measured)) if setup.describe is not None and measured else {}
    score, graph = finite(measured.get(setup.metric)), graph_facts(setup.model)
    best = [row for row in rows if row["split"] == "dev" and row["step"] == trained.get("best_step")]
    result: dict[str, Any] = {
        "kind": setup.kind,
        "task": setup.task,
        "model": graph["pattern"],
        "parameters": graph["parameters"],
        "metric": setup.metric,
        "score": score,
        "test_accuracy": finite(measured.get("accuracy")),
        "tested_on": "validation",
        "dev_accuracy": best[-1].get(setup.metric) if best else (max(developed) if developed else None),
        **{name: trained.get(name) for name in ("best_step", "steps", "planned_steps")},
        "seconds": steps[-1]["seconds"] if steps else None,
        "tokens_per_second": steps[-1]["tokens"] / steps[-1]["seconds"] if steps and steps[-1]["seconds"] else None,
        "peak_mib": peak_mib(setup.model.device),
        "train_loss": sum(losses) / len(losses) if losses and len(losses) == len(steps) else None,
        **more,
        "metrics": {name: finite(value) for name, value in measured.items() if is_figure(name)},
    }
    asked, accuracy = result.get("n_test"), result["test_accuracy"]
    if accuracy is not None and asked and "interval" not in result:
        result["interval"] = list(wilson_interval(round(accuracy * asked), asked))
    if result.get("interval") and result.get("baselines"):
        result["learnt"] = learnt(tuple(result["interval"]), result["baselines"])
    return result


def run_facts(command: Command, setup: Setup, processes: int) -> dict[str, Any]:
    """What ``run.json`` says of a run that begins: enough to run it again and to show its graph."""
    entry = getattr(setup.model.config, "nip", None) or {}
    return {
        "kind": setup.kind,
        "task": setup.task,
        "command": list(command.words),
        **graph_facts(setup.model),
        "layers": entry.get("layers"),
        "seq_len": setup.seq_len,
        "seed": command.training.seed,
        "metric": setup.metric,
        "data": dict(setup.data),
        "settings": decisive(command, processes),
    }


def graph_facts(model: PreTrainedModel) -> dict[str, Any]:
    """The graph of a model's layers: its name, parameters, block size; of one without a name the checksum."""
    entry = getattr(model.config, "nip", None) or {}
    graph = entry.get("default") or {"pattern": "softmax", "block_size": 1}
    return {
        "pattern": graph["pattern"],
        "parameters": graph.get("parameters", {}),
        "block_size": graph["block_size"],
        "checksum": graph.get("checksum"),
    }


def report(command: Command, result: Mapping[str, Any]) -> None:
    """Print what came of a run: in words, or as JSON where the command asks for it."""
    if not PartialState().is_main_process:
        return
    if command.run.json:
        print(json.dumps(result, allow_nan=False, indent=2))
        return
    for name, value in result["metrics"].items():
        print(f"{name:24} {'no number' if value is None else format(value, '.4f')}")
    print(command.training.output_dir)
    sys.stdout.flush()


def finite(value: float | None) -> float | None:
    """The number; None for what JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None


def is_figure(name: str) -> bool:
    """Whether an evaluation's figure is a metric, not a time."""
    return not name.endswith(("runtime", "per_second", "preparation_time"))
