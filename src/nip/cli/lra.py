"""`nip lra`: train and test on a task of the Long Range Arena."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from nip import graphs
from nip.cli.options import Json, Param, option
from nip.cli.output import print_json, warnings_to_stderr
from nip.graphs.pattern import read_parameters
from nip.lra.config import FOUND, RunConfig

SETTINGS = {field.name for field in dataclasses.fields(RunConfig)} - set(FOUND)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("lra", rich_help_panel="Train")(lra_command)


# Every default is None: what is not given is left to --config, then to the recipe.
_model, _optimizer, _pretraining, _evaluation = (
    partial(option, default="recipe", panel=panel)
    for panel in ("Model", "Optimization", "Self-pretraining", "Evaluation")
)


def lra_command(
    attention: Annotated[
        str | None,
        option(f"Pattern, one of {', '.join(graphs.PATTERNS)}.", "--attention", "--model", default="hypercube"),
    ] = None,
    task: Annotated[str | None, option("Task.", default="listops")] = None,
    seed: Annotated[int | None, option("Seed of initial weights, example order and dropout.", default="42")] = None,
    param: Param = None,
    graph: Annotated[Path | None, option("Graph file instead of a pattern.")] = None,
    recipe: Annotated[
        str | None, option("Recipe that sets model and training: original or modern.", default="original")
    ] = None,
    protocol: Annotated[
        str | None,
        option("clean: unpadded tokens, full splits; original: exactly as the paper's code.", default="clean"),
    ] = None,
    config: Annotated[Path | None, option("JSON file of settings, such as a run's config.json.")] = None,
    data: Annotated[Path | None, option("Data folder.", default="$NIP_DATA, else data/")] = None,
    output_dir: Annotated[
        Path | None, option("Run folder.", "--output-dir", "--out", default="runs/TASK-PATTERN-seedSEED")
    ] = None,
    skip_train: Annotated[bool, option("Only test the best weights of a run.", "--skip-train")] = False,
    weights: Annotated[
        Path | None, option("With --skip-train: test this .model file of the original instead, and write nothing.")
    ] = None,
    original_log: Annotated[
        bool, option("Also write the original's log, TASK_MODEL_output.log.", "--original-log")
    ] = False,
    max_steps: Annotated[int | None, _optimizer("Training steps; a larger number continues a finished run.")] = None,
    seq_len: Annotated[int | None, _model("Sequence length in tokens; longer inputs are truncated.")] = None,
    cut: Annotated[int | None, _model("Tokens to keep of an input before it is padded to --seq-len.")] = None,
    positions: Annotated[int | None, _model("Rows of the position table, at least --seq-len.")] = None,
    block_size: Annotated[int | None, _model("Tokens per vertex of the graph.")] = None,
    layers: Annotated[int | None, _model("Number of encoder layers.")] = None,
    repeats: Annotated[int | None, _model("Times that the stack of layers is applied, with shared weights.")] = None,
    dropout: Annotated[float | None, _model("Dropout probability on activations.")] = None,
    attention_dropout: Annotated[float | None, _model("Dropout probability on attention weights.")] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        _model("Recompute layers in the backward pass to save memory.", "--gradient-checkpointing", default="off"),
    ] = None,
    precision: Annotated[str | None, _model("Precision: fp32 or bf16.", default="bf16 on a GPU, else fp32")] = None,
    backend: Annotated[
        str | None, _model("Attention backend; nip doctor lists those available.", default="auto")
    ] = None,
    batch_size: Annotated[int | None, _optimizer("Examples per step.")] = None,
    gradient_accumulation: Annotated[
        int | None, _optimizer("Micro-batches per step; the gradient is that of the full batch.", default="automatic")
    ] = None,
    learning_rate: Annotated[float | None, _optimizer("Peak learning rate.")] = None,
    warmup: Annotated[float | None, _optimizer("Fraction of the steps in which the learning rate rises.")] = None,
    schedule: Annotated[
        str | None, _optimizer("Learning-rate schedule: original (one cycle), modern (cosine) or constant.")
    ] = None,
    weight_decay: Annotated[float | None, _optimizer("AdamW weight decay.")] = None,
    ema: Annotated[
        float | None, _optimizer("Decay rate of an exponential moving average of the weights, which is evaluated.")
    ] = None,
    pretrain_steps: Annotated[
        int | None, _pretraining("Steps of masked-token pretraining on the task's own training set; 0 is none.")
    ] = None,
    pretrain_learning_rate: Annotated[float | None, _pretraining("Peak learning rate of that pretraining.")] = None,
    mask_share: Annotated[float | None, _pretraining("Fraction of tokens masked in that pretraining.")] = None,
    eval_every: Annotated[int | None, _evaluation("Steps between evaluations on the development set.")] = None,
    eval_steps: Annotated[
        int | None, _evaluation("Batches per evaluation.", default="full development set; original protocol: recipe")
    ] = None,
    patience: Annotated[
        int | None, _evaluation("Stop after this many evaluations without improvement.", default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on a task, then test the weights of the best evaluation. Rerun the same command to resume.

    Settings that are not given are those of the paper's runs: docs/training.md.

    Example: nip lra --attention hypercube --task listops --seed 42 --max-steps 200 --seq-len 512
    """
    given = {name: value for name, value in locals().items() if name in SETTINGS and value is not None}
    if attention is not None:
        given["model"] = attention
    if param:
        given["parameters"] = read_parameters(param)
    if graph is not None:
        given["graph"] = str(graph)
    if weights is not None and not skip_train:
        raise ValueError("--weights are tested, not trained: give --skip-train with it.")
    chosen = resolve(given, config, data)
    from nip.runs.process import spin_briefly

    spin_briefly()
    from nip.data import runs_folder
    from nip.lra import train
    from nip.lra.run import evaluate_original_model
    from nip.runs.accuracy import format_result

    folder = output_dir if output_dir is not None else runs_folder() / chosen.name
    with warnings_to_stderr():
        if weights is not None:
            result = evaluate_original_model(chosen, weights, data=data)
        else:
            result = train(chosen, folder, data=data, skip_train=skip_train, original_log=original_log)
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if as_json:
        print_json(result)
    else:
        print(format_result(result) if weights is not None else f"{format_result(result)}\n{folder}")


def resolve(given: dict[str, Any], file: Path | None = None, data: Path | None = None) -> RunConfig:
    """The configuration of options and a file: options take precedence, then the file, then the recipe.

    Under the original's protocol the pickles of the original in the data folder `data` are taken as long as they are.

    Raises
    ------
    ValueError
        If the task or pattern is unknown, a setting is impossible, or options contradict each other.
    """
    from nip.data.tasks.storage import pickles_length
    from nip.lra import recipe
    from nip.lra.config import read_settings
    from nip.lra.graphs import PATTERN_FILE, graph_label

    stored: dict[str, Any] = {}
    if file is not None:
        stored = {name: value for name, value in read_settings(file).items() if value is not None}
        if stored.get("graph") is not None and not Path(stored["graph"]).is_file():
            copy = file.parent / PATTERN_FILE
            if copy.is_file():
                stored["graph"] = str(copy)
    if "graph" in given:
        if "model" in given:
            raise ValueError(f"Give --attention or --graph, not both. Got {given['model']!r} and {given['graph']}.")
        given = {**given, "model": graph_label(Path(given["graph"])), "parameters": given.get("parameters", {})}
    elif "model" in given:
        stored = {name: value for name, value in stored.items() if name not in ("graph", "parameters")}
    settings = {name: value for name, value in {**stored, **given}.items() if name not in FOUND}
    task, protocol = settings.get("task", "listops"), settings.get("protocol", "clean")
    config = recipe(task, protocol, settings.get("recipe", "original"))
    if protocol == "original" and not {"seq_len", "cut"} & set(settings):
        length = pickles_length(task, data)
        if length not in (None, config.seq_len):
            settings |= {"seq_len": length, "cut": None}
    if config.recipe == "modern" and "positions" not in given:  # it has no position table
        settings["positions"] = settings.get("seq_len", config.seq_len)
    config = dataclasses.replace(config, **settings)
    if given.get("attention_dropout", 0) and not config.attention_dropout_here:
        raise ValueError(
            f"--attention-dropout {config.attention_dropout:g} has no effect over {config.model} with --protocol "
            "original, which drops weights of softmax attention only. Leave it out, or give --protocol clean."
        )
    if config.graph is None:  # an unknown name or parameter raises here, before data is opened
        graphs.pattern(config.model, config.n_blocks, **config.parameters)
    return config
