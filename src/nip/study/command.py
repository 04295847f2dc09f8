"""The command that repeats a run, from its configuration."""

from __future__ import annotations

import dataclasses
import json
import shlex

from nip.study.runs import Run
from nip.training.recipes import RECIPES, recipe

# Settings that `nip lra` takes as options of the same name, underscores as dashes; the others only by --config.
OPTIONS = (
    *("max_steps", "seq_len", "batch_size", "block_size", "learning_rate", "eval_every", "eval_steps"),
    *("gradient_accumulation", "graph", "backend"),
)
SAID_ALWAYS = ("task", "model", "seed", "protocol", "parameters")
FOUND = ("checksum", "data")


def reproduction_command(run: Run) -> str:
    """`nip lra` with what the run's configuration adds to its task's recipe, quoted for a shell.

    Where it differs from the recipe in something that has no option, the command reads the configuration itself.
    """
    config = run.config
    if config.task not in RECIPES:
        return "nip lra --config config.json"
    base = dataclasses.asdict(recipe(config.task, config.protocol))
    words = ["nip", "lra", "--model", config.model, "--task", config.task, "--seed", str(config.seed)]
    words += ["--protocol", config.protocol]
    for name, value in dataclasses.asdict(config).items():
        if name in SAID_ALWAYS or name in FOUND or value == base[name]:
            continue
        if name not in OPTIONS or value is None:
            return "nip lra --config config.json"
        words += [f"--{name.replace('_', '-')}", str(value)]
    for name, value in config.parameters.items():
        words += ["--param", f"{name}={json.dumps(value)}"]
    return shlex.join(words)
