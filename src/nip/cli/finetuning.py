"""`nip glue`, `nip mlm`, `nip qa` … with the flags of the original's scripts, and commands about their runs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

# Words go on as they are: the flags are transformers' own and some of ours, too many to be spelled out here.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("glue", context_settings=PASSED_ON, add_help_option=False)(
        passed_on("nip.finetuning.glue.task", "Classify texts: a task of GLUE, or files. --help lists the flags.")
    )
    app.command("mlm", context_settings=PASSED_ON, add_help_option=False)(
        passed_on("nip.finetuning.masked_lm.task", "Masked language modelling, finetuned or from scratch.")
    )
    app.command("qa", context_settings=PASSED_ON, add_help_option=False)(
        passed_on("nip.finetuning.qa.task", "Answer questions by spans of their contexts: SQuAD 1 and 2, or files.")
    )
    app.command("summarization", context_settings=PASSED_ON, add_help_option=False)(
        passed_on("nip.finetuning.summarization.task", "Summarize texts by encoder–decoders such as BART and T5.")
    )
    app.command("hpo", context_settings=PASSED_ON, add_help_option=False)(
        passed_on("nip.finetuning.search.run", "Search for the settings that finetune best: nip hpo COMMAND FLAG …")
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
