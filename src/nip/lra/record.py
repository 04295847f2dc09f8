"""The record of a run of ``nip lra``, the command that repeats it, and its files."""

from __future__ import annotations

import dataclasses
import json

from nip.lra.config import FOUND, RunConfig
from nip.lra.recipes import BY_NAME, recipe
from nip.runs.record import RunRecord

KIND = "lra"
OWNED = (
    *("config.json", "run.json", "environment.json", "metrics.jsonl", "result.json", "run.log", "pattern.npz"),
    *("checkpoint/state.safetensors", "best/model.safetensors", "*_output.log", "pretraining/metrics.jsonl"),
    *("pretraining/checkpoint/state.safetensors", "pretraining/best/model.safetensors", "pretraining/result.json"),
)
"""The files of a run, for its manifest."""
FROM_FILE = ["nip", "lra", "--config", "config.json"]
_SET_FIRST = ("model", "graph", "parameters", "task", "seed", "protocol", "recipe")
_WITHOUT_OPTION = (
    *("width", "heads", "head_dim", "inner_width", "head_width", "token_std", "beta2", "protocol_version"),
)


def make_record(config: RunConfig) -> RunRecord:
    """The record of a run of a configuration, in which checksums of graph and data are known."""
    return RunRecord(
        kind=KIND,
        task=config.task,
        pattern=config.model,
        parameters=config.parameters,
        block_size=config.block_size,
        seq_len=config.seq_len,
        checksum=config.checksum,
        data={} if config.data is None else {"all": config.data},
        batch_size=config.batch_size,
        seed=config.seed,
        settings=dataclasses.asdict(config),
        planned_steps=config.max_steps,
        command=command_of(config),
    )


def command_of(config: RunConfig) -> list[str]:
    """The words of the command that repeats a run: its task's recipe, and the options that differ from it.

    Where a setting without an option differs, the command reads the configuration itself.
    """
    if config.task not in BY_NAME[config.recipe]:
        return FROM_FILE
    words = ["--graph", config.graph] if config.graph is not None else ["--attention", config.model]
    for name, value in config.parameters.items():
        words += ["--param", f"{name}={json.dumps(value)}"]
    words += ["--task", config.task, "--seed", str(config.seed), "--protocol", config.protocol]
    if config.recipe != "original":
        words += ["--recipe", config.recipe]
    base = dataclasses.asdict(recipe(config.task, config.protocol, config.recipe))
    for name, value in dataclasses.asdict(config).items():
        if name in (*_SET_FIRST, *FOUND) or value == base[name]:
            continue
        if name in _WITHOUT_OPTION or value is None:
            return FROM_FILE
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return ["nip", "lra", *words]
