"""`nip glue`, `nip mlm`, `nip qa` … with the flags of the original's scripts, and commands about their runs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nip.finetuning.commands import COMMANDS

# Words go on as they are: the flags are transformers' own and some of ours, too many to be spelled out here.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    forwarded = {command.name: (command.module, command.help) for command in COMMANDS.values()}
    forwarded["hpo"] = (
        "nip.finetuning.search.run",
        "Search for the best hyper-parameters of a finetuning command: nip hpo COMMAND OPTION …",
    )
    for name, (module, what) in forwarded.items():
        app.command(name, context_settings=PASSED_ON, add_help_option=False)(
            passed_on(module, f"{what} --help lists the options.")
        )
    app.command("checkpoints", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(checkpoints)


def passed_on(module: str, says: str) -> Callable[[typer.Context], None]:
    """A command that hands its words to ``main`` of a module."""

    def command(context: typer.Context) -> None:
        _spin_briefly()
        importlib.import_module(module).main(context.args, program=f"nip {context.info_name}")

    command.__doc__ = says
    return command


def checkpoints(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The output folder of a finetuning run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "--out", help="The JSON file; the curve lies beside it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as one JSON value.")] = False,
) -> None:
    """Evaluate every checkpoint of a finetuning run: one JSON file and a curve. Other flags are the task's.

    Example: nip checkpoints runs/glue-mrpc-hypercube-seed42 --per_device_eval_batch_size 64
    """
    _spin_briefly()
    from nip.finetuning.evaluate_checkpoints import evaluate_checkpoints

    rows = evaluate_checkpoints(run, output, context.args)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float))
        print(f"step {row['step']:>8,}  {figures}")


def _spin_briefly() -> None:
    from nip.runs.process import spin_briefly

    spin_briefly()
