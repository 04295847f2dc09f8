"""`nip glue`, `nip mlm`, `nip qa` …, `nip hpo` and `nip checkpoints`: Hugging Face models, finetuned over graphs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nip.cli.options import Json, option
from nip.cli.output import print_json
from nip.finetuning.commands import COMMANDS

# Arguments are passed on: their options are transformers' and some of ours, parsed in nip.finetuning.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    forwarded = {command.name: (command.module, command.help) for command in COMMANDS.values()}
    forwarded["hpo"] = (
        "nip.finetuning.search.run",
        "Search for the best hyper-parameters of a finetuning command: nip hpo COMMAND OPTION ….",
    )
    for name, (module, what) in forwarded.items():
        app.command(name, context_settings=PASSED_ON, add_help_option=False, rich_help_panel="Finetune")(
            passed_on(module, what)
        )
    extra_options = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("checkpoints", context_settings=extra_options, rich_help_panel="Finetune")(checkpoints)
    app.command("convert", rich_help_panel="Finetune")(convert)


def passed_on(module: str, says: str) -> Callable[[typer.Context], None]:
    """A command that passes its arguments to ``main`` of a module."""

    def command(context: typer.Context) -> None:
        _spin_briefly()
        importlib.import_module(module).main(context.args, program=f"nip {context.info_name}")

    command.__doc__ = says
    return command


def checkpoints(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Output folder of a finetuning run, or a folder of models checkpoint-N.")],
    output: Annotated[
        Path | None,
        option("JSON file to write; the plot is next to it.", "--output", "--out", default="RUN/checkpoints.json"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate every checkpoint of a finetuning run: one JSON file and a plot. Other options are the task's.

    Example: nip checkpoints runs/glue-mrpc-hypercube-seed42 --per_device_eval_batch_size 64

    Example: nip checkpoints models/wikitext --dataset_name wikitext --dataset_config_name wikitext-103-raw-v1
    """
    _spin_briefly()
    from nip.finetuning.evaluate_checkpoints import evaluate_checkpoints

    rows = evaluate_checkpoints(run, output, context.args)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float))
        print(f"step {row['step']:>8,}  {figures}")


def convert(
    model: Annotated[Path, typer.Argument(metavar="FOLDER", help="A BERT checkpoint of the original code.")],
    output_dir: Annotated[Path, option("New folder for the converted model.", "--output-dir", "--out", default=False)],
    as_json: Json = False,
) -> None:
    """Convert a BERT checkpoint of the original code to a folder that transformers and nip load.

    nip glue, mlm, qa, checkpoints and nip pretrain --init-from convert such a folder themselves when they load it.

    Example: nip convert saved_models/pretraining_experiment/epoch1000 --output-dir models/bert
    """
    _spin_briefly()
    from nip.models.huggingface.original_bert import convert as convert_folder

    made = convert_folder(model, output_dir)
    facts = {"folder": str(output_dir), "model": type(made).__name__, "parameters": made.num_parameters()}
    if as_json:
        print_json(facts)
    else:
        print(f"{facts['model']} with {facts['parameters']:,} parameters: {output_dir}")


def _spin_briefly() -> None:
    from nip.runs.process import spin_briefly

    spin_briefly()
