"""The command that reproduces a run, from its record."""

from __future__ import annotations

import dataclasses
import json
import shlex

from nip.lra.config import FOUND, RunConfig
from nip.lra.recipes import BY_NAME, recipe
from nip.runs.record import RunRecord

FROM_FILE = "nip lra --config config.json"
SAID_FIRST = ("model", "graph", "parameters", "task", "seed", "protocol", "recipe")
WITHOUT_OPTION = ("width", "heads", "head_dim", "inner_width", "head_width", "token_std", "beta2")


def reproduction_command(run: RunRecord) -> str:
    """`nip lra` with what the run's configuration adds to its task's recipe, quoted for a shell.

    Where it differs from the recipe in something that no option says, the command reads the configuration itself.
    A finetuning run has recorded its command.
    """
    if run.kind != "lra":
        return shlex.join(str(word) for word in run.command)
    try:
        config = RunConfig(**run.settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run.folder}: {error}") from error
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
        if name in (*SAID_FIRST, *FOUND) or value == base[name]:
            continue
        if name in WITHOUT_OPTION or value is None:
            return FROM_FILE
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(["nip", "lra", *words])
