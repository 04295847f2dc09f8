"""What a report needs of a finetuning run's folder, without torch or transformers.

The folder's ``config.json`` is the model's; the run is told by ``run.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nip.lra.config import RunConfig
from nip.runs.folder import read_run_file

KINDS = ("glue", "mlm", "qa", "summarization")


def finetuning_run(folder: Path) -> Mapping[str, Any] | None:
    """What ``run.json`` says; None where the folder is none of ours.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    return read_run_file(folder)


# Settings that `as_run_config` says under other names, or that decide nothing that the others do not.
SAID_ELSEWHERE = (
    *("attention", "attention_layers", "param", "graph", "graph_file", "eval_steps", "max_seq_length", "processes"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "seed", "data_seed"),
)


def further_settings(run: Mapping[str, Any] | None) -> dict[str, Any]:
    """What sets a finetuning run apart beside its `RunConfig`: the model that it began from, its layers, its epochs …

    Settings that are None are left out: an older run does not say them.

    Examples
    --------
    >>> run = {"kind": "glue", "settings": {"model_name_or_path": "bert", "seed": 1, "data_dir": None}}
    >>> further_settings({**run, "layers": {"0": {"pattern": "local"}, "3": None}})
    {'model_name_or_path': 'bert', 'layer patterns': '0=local, 3=softmax'}
    """
    if run is None or run.get("kind") not in KINDS:
        return {}
    settings = run.get("settings") or {}
    found = {name: value for name, value in settings.items() if name not in SAID_ELSEWHERE and value is not None}
    layers = layers_of(run)
    return found if layers is None else {**found, "layer patterns": layers}


def layers_of(run: Mapping[str, Any]) -> str | None:
    """The patterns of a finetuning run's layers in words, where they have several."""
    layers = run.get("layers")
    if layers is None:
        told: str | None = (run.get("settings") or {}).get("attention_layers")
        return told
    several = isinstance(layers, Mapping)
    named = layers.items() if several else enumerate(layers)
    words = [(number, "softmax" if graph is None else graph["pattern"]) for number, graph in named]
    return ", ".join(f"{number}={name}" if several else name for number, name in words)


def as_run_config(run: Mapping[str, Any], folder: Path) -> RunConfig:
    """The run's settings in the terms of `RunConfig`, which a report compares and groups runs by.

    What a finetuning run has no say in, such as the widths of its model, keeps its default. The metric that counts is
    named with the task where it is not the accuracy.

    Raises
    ------
    ValueError
        If the file lacks something or holds what cannot be.
    """
    file = folder / "run.json"
    try:
        settings, metric = run["settings"], run["metric"]
        trained = run.get("trained") or {}
        custom = run["pattern"] == "custom"
        return RunConfig(
            task=run["task"] if metric == "accuracy" else f"{run['task']} ({metric})",
            seq_len=run["seq_len"],
            positions=run["seq_len"],
            batch_size=settings["per_device_train_batch_size"]
            * settings["gradient_accumulation_steps"]
            * settings.get("processes", 1),
            learning_rate=settings["learning_rate"],
            warmup=1.0,
            weight_decay=settings["weight_decay"],
            dropout=0.0,
            max_steps=trained.get("planned_steps") or run.get("planned_steps") or max(1, settings["max_steps"]),
            eval_every=max(1, int(settings["eval_steps"] or 1)),
            eval_steps=None,
            model=run["pattern"],
            parameters=run["parameters"],
            block_size=run["block_size"],
            graph="pattern.npz" if custom else None,
            checksum=run["checksum"],
            seed=run["seed"],
            data=(run.get("data") or {}).get("train"),
            repeats=1,
        )
    except KeyError as error:
        raise ValueError(f"{file} lacks {error.args[0]}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
